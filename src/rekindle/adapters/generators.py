"""Random number generators: Python's, numpy's, and the global ones of a process.

Every generator goes on with exactly the numbers that it would have drawn next.
"""

from __future__ import annotations

import functools
import random
import sys
from typing import Any

import numpy as np

from rekindle.graph import Walk, attributes_of, join
from rekindle.match import MISSING, Match
from rekindle.protocols import Adapter
from rekindle.registry import label

_MOST_CHILDREN = 10_000
"""How many children are spawned one by one to catch up; beyond it a new seed is made."""
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class GlobalRNG:
    """The global generators: Python's `random`, `numpy.random`, torch's (CPU and each CUDA device).

    torch's are included when torch is imported, CUDA's when CUDA has been used.
    """

    def __repr__(self) -> str:
        return "GlobalRNG()"


def _python_state(generator: Any) -> dict[str, Any]:
    version, words, gauss = generator.getstate()
    return {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss}


def _python_tuple(state: dict[str, Any]) -> tuple[Any, ...]:
    """The state as `random` takes it, tried on a generator that nobody uses."""
    found = (state["version"], tuple(int(word) for word in state["words"]), state["gauss"])
    random.Random().setstate(found)
    return found


def _numpy_state(value: Any) -> Any:
    """A state of a bit generator or of `RandomState`, tried on a generator that nobody uses."""
    name = value["bit_generator"]
    if name not in _BIT_GENERATORS:
        return value
    # numpy takes any position, and reads its words at it without looking.
    places = value["state"].get("pos", 0), value.get("buffer_pos", 0)
    if not 0 <= places[0] <= 624 or not 0 <= places[1] <= 4:
        raise ValueError(f"a position outside the words of {name}")
    bits = getattr(np.random, name)(0)
    if "has_gauss" in value:
        np.random.RandomState(bits).set_state(value)
    else:
        bits.state = value
    return value


class PythonRandom(Adapter):
    """`random.Random`."""

    name = "generators.python"

    def capture(self, live: random.Random, walk: Walk, path: str) -> dict[str, Any]:
        """Mersenne Twister words, and the second half of a pair of normals when one is left."""
        try:
            fields = {"state": walk.whole(_python_state(live), path)}
        except NotImplementedError:
            walk.refuse(path, "random.SystemRandom, which takes its numbers from the system")
            return {}
        attributes = {k: v for k, v in attributes_of(live).items() if k != "gauss_next"}
        if attributes:
            fields["attributes"] = walk.children(attributes, path)
        return fields

    def restore(self, node: dict[str, Any], live: random.Random, match: Match, path: str) -> Any:
        """Set the words in place, and what a class of the user's adds to them."""
        match.attributes(node.get("attributes", {}), live, path)
        match.later(functools.partial(live.setstate, _python_tuple(match.value(node["state"]))))
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A generator of Python's own class."""
        if node["class"] != label(random.Random):
            match.differ(path, f"an object of class {node['class']} to restore into", "nothing")
            return None
        generator = random.Random()
        generator.setstate(_python_tuple(match.value(node["state"])))
        return generator


class BitGenerator(Adapter):
    """numpy's bit generators, whose `state` is plain data already."""

    name = "generators.numpy_bits"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The state, and the seed, from which children are spawned."""
        fields: dict[str, Any] = {"state": walk.whole(live.state, path)}
        if isinstance(live.seed_seq, np.random.SeedSequence):
            fields["seed"] = walk.node(live.seed_seq, join(path, "seed"))
        return fields

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Set the state and the seed in place."""
        state = _numpy_state(match.value(node["state"]))
        if state["bit_generator"] != type(live).__name__:
            raise ValueError(f"a state of {state['bit_generator']} for {node['class']}")
        match.later(functools.partial(setattr, live, "state", state))
        if "seed" not in node:
            return live
        present = live.seed_seq if isinstance(live.seed_seq, np.random.SeedSequence) else MISSING
        seed = match.node(node["seed"], present, join(path, "seed"))
        if seed is present:
            return live
        if isinstance(live.__reduce__()[2], tuple):
            match.later(functools.partial(live.__setstate__, (state, seed)))
        else:
            match.notes.append(
                f"{match.full(path)}: children that it spawns from now on differ, because its seed "
                "is another one than when the checkpoint was written; numpy 2 can put it back"
            )
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new one of the named kind, among numpy's own."""
        state = _numpy_state(match.value(node["state"]))
        name = state["bit_generator"]
        if name not in _BIT_GENERATORS:
            match.differ(path, f"one of {', '.join(_BIT_GENERATORS)}", str(name))
            return None
        seed = None
        if "seed" in node:
            seed = match.node(node["seed"], MISSING, join(path, "seed"))
        generator = getattr(np.random, name)(seed)
        generator.state = state
        return generator


class NumpyGenerator(Adapter):
    """`numpy.random.Generator`: a front of its bit generator."""

    name = "generators.numpy"

    def capture(self, live: np.random.Generator, walk: Walk, path: str) -> dict[str, Any]:
        """Its bit generator, which several may share."""
        bits = walk.node(live.bit_generator, join(path, "bit_generator"))
        return {"state": {"bit_generator": bits}}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Restore the bit generator; a new front when that is another one."""
        inner = join(path, "bit_generator")
        bits = match.node(node["state"]["bit_generator"], live.bit_generator, inner)
        return live if bits is live.bit_generator else np.random.Generator(bits)

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new front over a new bit generator."""
        bits = match.node(node["state"]["bit_generator"], None, join(path, "bit_generator"))
        return None if bits is None else np.random.Generator(bits)


class LegacyGenerator(Adapter):
    """`numpy.random.RandomState`."""

    name = "generators.numpy_legacy"

    def capture(self, live: np.random.RandomState, walk: Walk, path: str) -> dict[str, Any]:
        """The state as numpy gives it, with the cached second normal."""
        return {"state": walk.whole(live.get_state(legacy=False), path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Set the state in place."""
        state = _numpy_state(match.value(node["state"]))
        if _same_kind(state, live.get_state(legacy=False), match, path):
            match.later(functools.partial(live.set_state, state))
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """A new one with this state."""
        state = _numpy_state(match.value(node["state"]))
        if state["bit_generator"] not in _BIT_GENERATORS:
            match.differ(path, f"one of {', '.join(_BIT_GENERATORS)}", state["bit_generator"])
            return None
        generator = np.random.RandomState(getattr(np.random, state["bit_generator"])())
        generator.set_state(state)
        return generator


class SeedSequence(Adapter):
    """`numpy.random.SeedSequence`, which several generators may spawn from."""

    name = "generators.seed_sequence"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """What it was made from and how many children it has spawned."""
        return {"state": walk.whole(live.state, path)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Spawn as many children as had been; a new one where the live one is another."""
        state = match.value(node["state"])
        missing = state["n_children_spawned"] - live.n_children_spawned
        if not 0 <= missing <= _MOST_CHILDREN or _origin(state) != _origin(live.state):
            return np.random.SeedSequence(**state)
        if missing:
            match.later(lambda: live.spawn(missing))
        return live

    def build(self, node: dict[str, Any], match: Match, path: str) -> Any:
        """An equal one."""
        return np.random.SeedSequence(**match.value(node["state"]))


def _origin(state: dict[str, Any]) -> str:
    """What a seed was made from, to be compared; its entropy may be an array."""
    return repr([np.asarray(state[key], dtype=object).tolist()
                 for key in ("entropy", "spawn_key", "pool_size")])  # fmt: skip


def _same_kind(
    state: dict[str, Any], live: dict[str, Any] | tuple[Any, ...], match: Match, path: str
) -> bool:
    """Whether numpy's legacy state can be set into a generator that is in another such state."""
    found = live["bit_generator"] if isinstance(live, dict) else live[0]
    if found != state["bit_generator"]:
        match.differ(path, f"a generator over {state['bit_generator']}", f"one over {found}")
        return False
    return True


class Global(Adapter):
    """`GlobalRNG`: what `random`, `numpy.random` and `torch` draw from by default."""

    name = "generators.global"

    def capture(self, live: GlobalRNG, walk: Walk, path: str) -> dict[str, Any]:
        """One entry per library that is loaded."""
        state: dict[str, Any] = {
            "python": _python_state(random),
            "numpy": np.random.get_state(legacy=False),
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            state["torch"] = torch.get_rng_state().numpy()
            if torch.cuda.is_initialized():
                states = torch.cuda.get_rng_state_all()
                state["torch_cuda"] = [part.numpy() for part in states]
        return {"state": walk.whole(state, path)}

    def restore(self, node: dict[str, Any], live: GlobalRNG, match: Match, path: str) -> Any:
        """Set every generator that the checkpoint holds."""
        state = match.value(node["state"])
        match.later(functools.partial(random.setstate, _python_tuple(state["python"])))
        legacy = np.random.get_state(legacy=False)
        if _same_kind(_numpy_state(state["numpy"]), legacy, match, join(path, "numpy")):
            match.later(functools.partial(np.random.set_state, state["numpy"]))
        torch = sys.modules.get("torch")
        if "torch" in state and torch is None:
            match.differ(join(path, "torch"), "torch to be imported", "it is not")
        elif torch is not None and "torch" not in state:
            match.notes.append(f"{match.full(path)}: torch's generator was not in use at the save")
        elif torch is not None:
            match.later(lambda: torch.set_rng_state(torch.from_numpy(state["torch"].copy())))
        self._restore_cuda(state.get("torch_cuda"), torch, match, path)
        return live

    def _restore_cuda(self, states: Any, torch: Any, match: Match, path: str) -> None:
        if not states or torch is None:
            return
        count = torch.cuda.device_count()
        if count < len(states):
            match.differ(
                join(path, "torch_cuda"), f"{len(states)} CUDA device(s)", f"{count} device(s)"
            )
            return
        for index, part in enumerate(states):
            tensor = torch.from_numpy(part.copy())
            match.later(functools.partial(torch.cuda.set_rng_state, tensor, index))


PYTHON = PythonRandom()
NUMPY_BITS = BitGenerator()
NUMPY_GENERATOR = NumpyGenerator()
NUMPY_LEGACY = LegacyGenerator()
SEED_SEQUENCE = SeedSequence()
GLOBAL = Global()
