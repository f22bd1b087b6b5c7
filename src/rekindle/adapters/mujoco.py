"""MuJoCo: the simulation by its arrays, the model by its digest.

Source: MuJoCo 4.0, "Simulation" (https://mujoco.readthedocs.io/en/stable/programming/simulation.html).
The integration state alone does not suffice: environments read quantities derived from it, such as
`xpos`, that lag one substep behind. So every array of `MjData` whose size the model fixes is kept
too. Contacts and constraints, whose number varies, are what the next `mj_step` computes first.
"""

from __future__ import annotations

import functools
from typing import Any

import mujoco
import numpy as np

from rekindle import files
from rekindle.graph import Walk, join
from rekindle.match import Match
from rekindle.protocols import Adapter

_mujoco: Any = mujoco  # Compiled, without stubs.
_INTEGRATION = _mujoco.mjtState.mjSTATE_INTEGRATION
_NOT_STATE = frozenset(("plugin", "plugin_data"))
"""Arrays that hold addresses of the process; what plugins remember is in `plugin_state`."""


def fixed_arrays(data: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an `MjData` whose size the model fixes, by name, over its own memory.

    In a new simulation nothing touches yet, so those whose size varies are empty.
    """
    new = _mujoco.MjData(data.model)
    found = {}
    for name in dir(new):
        if name.startswith("_") or name in _NOT_STATE:
            continue
        array = getattr(new, name)
        if isinstance(array, np.ndarray) and array.size:
            found[name] = getattr(data, name)
    return found


def _scalars(data: Any) -> dict[str, int]:
    """What tells which derived quantities are up to date, and how much of the model is awake."""
    names = [name for name in dir(data) if name.startswith("flg_") or name.endswith("_awake")]
    return {name: int(value) for name in names if isinstance(value := getattr(data, name), int)}


class Data(Adapter):
    """`MjData`: the integration state, and every array of fixed size, restored in place."""

    name = "mujoco.data"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The model, the integration state, the arrays."""
        integration = np.empty(_mujoco.mj_stateSize(live.model, _INTEGRATION))
        _mujoco.mj_getState(live.model, live, integration, _INTEGRATION)
        return {
            "state": {
                "model": walk.node(live.model, join(path, "model")),
                "integration": walk.node(integration, join(path, "integration")),
                "scalars": walk.whole(_scalars(live), path),
                "arrays": walk.whole(fixed_arrays(live), path),
            }
        }

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Compare the model and all sizes; then set the state, and each array after it."""
        state = node["state"]
        match.node(state["model"], live.model, join(path, "model"))
        integration = np.array(match.value(state["integration"]))
        size = _mujoco.mj_stateSize(live.model, _INTEGRATION)
        if integration.dtype != np.float64 or integration.shape != (size,):
            expected = f"{integration.dtype} of shape {integration.shape}"
            match.differ(join(path, "integration"), expected, f"float64 of shape ({size},)")
            return live
        match.later(functools.partial(_set_state, live, integration))
        present = fixed_arrays(live)
        for name in sorted(state["arrays"].keys() ^ present.keys()):
            held = ["an array" if name in side else "none" for side in (state["arrays"], present)]
            match.differ(join(path, name), *held)
        for name, array in present.items():
            if name in state["arrays"]:
                match.node(state["arrays"][name], array, join(path, name), strict=True)
        for name in _scalars(live):
            if name in state["scalars"]:
                value = int(state["scalars"][name])
                match.later(functools.partial(setattr, live, name, value))
        return live


def _set_state(data: Any, integration: np.ndarray[Any, Any]) -> None:
    _mujoco.mj_setState(data.model, data, integration, _INTEGRATION)


class Model(Adapter):
    """`MjModel`: what is simulated; compared by the digest of its binary, never rebuilt."""

    name = "mujoco.model"

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The digest."""
        return {"state": _identity(live)}

    def restore(self, node: dict[str, Any], live: Any, match: Match, path: str) -> Any:
        """Compare."""
        expected, found = node["state"], _identity(live)
        if expected != found:
            match.differ(
                path,
                f"the MuJoCo model that was simulated ({_describe(expected)})",
                f"another ({_describe(found)}): load the same model, and change it in the same way",
            )
        return live


def _identity(model: Any) -> dict[str, Any]:
    binary = np.zeros(_mujoco.mj_sizeModel(model), np.uint8)
    _mujoco.mj_saveModel(model, None, binary)
    return {"bytes": binary.nbytes, "blake3": files.digest(binary.data)}


def _describe(identity: dict[str, Any]) -> str:
    return f"{identity['bytes']:,} bytes, blake3 {identity['blake3'][:16]}"


DATA = Data()
MODEL = Model()
