"""What wrappers of torch put into the names of a module's tensors.

`DistributedDataParallel` and `DataParallel` put `module.` before every name. `torch.compile` puts
`_orig_mod.`, also in the middle where it wraps a part. A state dict saved from a wrapped module
names the same tensors as one of the module inside.
"""

from __future__ import annotations

from collections.abc import Iterable

COMPILED = "_orig_mod."
PARALLEL = "module."


def bare(names: Iterable[str]) -> dict[str, str]:
    """Each name with the name that its tensor has in the module inside, where all have one.

    `module.` is a wrapper's only where every name begins with it: modules of people's own are
    called so too. Names that two tensors would then share stay as they are.

    Args:
        names: Every name of a state dict.
    """
    full = list(names)
    short = [name.replace(COMPILED, "") for name in full]
    while short and all(name.startswith(PARALLEL) for name in short):
        short = [name.removeprefix(PARALLEL).replace(COMPILED, "") for name in short]
    if len(set(short)) < len(full):
        short = full
    return dict(zip(full, short, strict=True))


def aligned(stored: Iterable[str], live: Iterable[str]) -> dict[str, str]:
    """For each stored name, the live name of the same tensor; itself where there is none.

    Args:
        stored: Names in a file, of a wrapped module or of one that was not.
        live: Names in a module, likewise.
    """
    there, known = list(stored), list(live)
    if set(there) == set(known):
        return {name: name for name in there}
    by_bare = {short: name for name, short in bare(known).items()}
    return {name: by_bare.get(short, short) for name, short in bare(there).items()}
