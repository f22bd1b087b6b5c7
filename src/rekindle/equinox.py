"""Equinox modules, saved and built again by `serialize` and `deserialize`, as in Lerax.

    class Policy(rekindle.equinox.Serializable):
        ...

    policy.serialize("policy.zip")
    policy = Policy.deserialize("policy.zip", 4, 2, key=key)

Classes, static fields and functions come from the constructor; only numbers come from the file, and
nothing in it is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from rekindle import files
from rekindle.checkpoint import Checkpoint, save
from rekindle.errors import (
    MismatchError,
    MissingDependencyError,
    NotFoundError,
    UnsupportedError,
)
from rekindle.files import PathLike
from rekindle.formats import equinox_leaves
from rekindle.opening import open_any

try:
    import equinox as eqx
    import jax

    from rekindle.adapters import jax_values
except ImportError as error:
    raise MissingDependencyError(
        "rekindle.equinox: expected equinox to be installed, found that it is not. "
        "Install it with `pip install rekindle[jax]`."
    ) from error

_SUFFIX = ".eqx"
_COMPONENT = equinox_leaves.COMPONENT
_Tree = TypeVar("_Tree")


class Serializable(eqx.Module):
    """An Equinox module with `serialize` and `deserialize`, to take as a base.

    It may stand beside other bases, and has no fields: the tree's structure is that of the class
    without it.
    """

    def serialize(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Save every array and number; see `serialize`."""
        serialize(self, path, overwrite=overwrite)

    @classmethod
    def deserialize(cls, path: PathLike, *args: Any, **kwargs: Any) -> Self:
        """Construct the module with these arguments, and give it what was saved; see `deserialize`.

        Args:
            path: What `serialize` wrote.
            *args: Arguments of the constructor, as for the one that was saved.
            **kwargs: The same.
        """
        return deserialize(path, cls(*args, **kwargs))


def serialize(tree: Any, path: PathLike, *, overwrite: bool = False) -> None:
    """Save every array, number and PRNG key of a module, or of any other tree.

    Args:
        tree: An Equinox module, or what holds several: a tuple, an `eqx.nn.State`, an optax state.
        path: The directory to make; one file where the name ends in `.zip`; Lerax's own file where
            it ends in `.eqx`, which holds arrays and numbers in a row, without their names.
        overwrite: Replace what is there, in one step.

    Raises:
        AlreadyExistsError: Something is at `path` and `overwrite` is false.
        UnsupportedError: Values that cannot be data; of `.eqx`, typed PRNG keys as well.
    """
    destination = Path(path)
    if destination.suffix != _SUFFIX:
        save(destination, overwrite=overwrite, **{_COMPONENT: tree})
        return
    if destination.is_dir() or (destination.exists() and not overwrite):
        raise files.exists_error(destination)
    keys = [name for name, leaf in _leaves(tree) if _is_key(leaf)]
    if keys:
        raise UnsupportedError(
            f"{destination}: expected arrays and numbers, which a file of Equinox holds, found "
            f"typed PRNG keys at {', '.join(keys)}. Name a directory or a .zip instead.",
            path=destination,
            key=keys[0],
            refusals=[(key, "a typed PRNG key") for key in keys],
        )
    fingerprint = bytes.fromhex(equinox_leaves.fingerprint(tree))
    with (
        files.new_file(destination, overwrite=overwrite) as temporary,
        temporary.open("wb") as file,
    ):
        file.write(fingerprint)
        eqx.tree_serialise_leaves(file, tree)


def deserialize(path: PathLike, like: _Tree, *, check_fingerprint: bool = True) -> _Tree:
    """A new tree with the structure of another and the numbers of a file.

    Args:
        path: What `serialize` wrote, here or in Lerax, or `eqx.tree_serialise_leaves`.
        like: A tree as the one that was saved: constructed with the same arguments, trained or not.
            It is not changed.
        check_fingerprint: Whether Lerax's digest of the structure must be that of `like`. It takes
            in names of classes and static fields, and may differ in another version of JAX.

    Raises:
        MismatchError: The structure is another; the error names each leaf that differs.
        NotFoundError: There is nothing at `path`, or no module.
    """
    saved = open_any(path)
    if _COMPONENT not in saved:
        raise NotFoundError(
            f"{saved.path}: expected a module that serialize() saved, found "
            f"{', '.join(saved) or 'nothing'}.",
            path=saved.path,
            key=_COMPONENT,
        )
    if isinstance(saved, Checkpoint):
        return saved.into(_COMPONENT, like)
    tree = saved.into(_COMPONENT, like)
    stored = saved.reading.details.get("fingerprint")
    if check_fingerprint and stored not in (None, equinox_leaves.fingerprint(like)):
        raise MismatchError(
            f"{saved.path}: every leaf fits, but expected the structure with the fingerprint "
            f"{stored[:16]}..., found {equinox_leaves.fingerprint(like)[:16]}...: names of classes "
            "or static fields differ, or the version of JAX. Construct it as it was when it was "
            "saved, or pass check_fingerprint=False to rekindle.equinox.deserialize.",
            path=saved.path,
            key="fingerprint",
        )
    return jax.tree_util.tree_map(_as_it_was, tree, like)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path).removeprefix(".") or "leaf", leaf) for path, leaf in found]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax_values.is_key(leaf)


def _as_it_was(leaf: Any, like: Any) -> Any:
    """A leaf that a file without types gave, with the weak type and on the device of the live one.

    A jitted function then sees what it saw before, and is not traced again.
    """
    if not isinstance(leaf, jax.Array) or not isinstance(like, jax.Array) or leaf is like:
        return leaf
    if like.weak_type and not leaf.weak_type:
        leaf = jax_values.convert(np.asarray(leaf), {"weak_type": True}, None)
    return jax.device_put(leaf, like.sharding) if like.committed else leaf
