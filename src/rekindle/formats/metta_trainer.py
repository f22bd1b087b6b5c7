"""Metta's `trainer_state.pt`: the optimizer, how far training is, and what else the trainer keeps.

The policy that belongs to it is another file of the run: `policy_path` names it where it was
written in 2025; since then it is the newest bundle. Source: Metta at 97cc14cdd6 and a8d1ecee19.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rekindle.errors import FormatError
from rekindle.formats import inert, metta_checkpoint, torch_files, wrappers
from rekindle.formats.protocol import Confidence, Format, Kind, Note, Reading
from rekindle.limits import Budget

FILE = "trainer_state.pt"
_OPTIMIZERS = ("optimizer_state_dict", "optimizer")
_COUNTS = {"agent_step", "epoch"}
_OWN = {"policy_path", "stopwatch_state", "curriculum_state", "loss_states"}
"""Items that only Metta's trainer has; the first is that of 2025."""


class TrainerState(Format):
    """`trainer_state.pt`, by whatever name."""

    name = "metta.trainer_state"

    def sniff(self, path: Path) -> Confidence | None:
        """A file of torch with an optimizer beside Metta's two counts."""
        outline = torch_files.outline_of(path)
        if outline is None or not outline.keys >= _COUNTS:
            return None
        if outline.keys.isdisjoint(_OPTIMIZERS):
            return None
        return Confidence.CERTAIN if outline.keys & _OWN else Confidence.LAYOUT

    def read(self, path: Path, *, max_bytes: int | None = None) -> Reading:
        """The optimizer's state dict as `optimizer`, and everything else as `agent`."""
        budget = Budget(max_bytes, str(path))
        file = torch_files.read(wrappers.of_file(path, budget), budget)
        optimizer, agent = split(file.value, str(path))
        policy = agent.get("policy_path")
        text = (
            f"it is the file that policy_path names, {policy[:200]!r}"
            if isinstance(policy, str)
            else "it is the newest bundle of the same run"
        )
        notes = [
            *(Note(Kind.INERT, "agent", text) for text in file.notes),
            *inert.notes(optimizer, "optimizer"),
            *inert.notes(agent, "agent"),
            Note(Kind.ABSENT, "policy", text),
            *(
                Note(Kind.ABSENT, name, text)
                for name, text in metta_checkpoint.NOT_HELD.items()
                if name != "optimizer"
            ),
        ]
        return Reading(
            format=self.name,
            components={"optimizer": optimizer, "agent": agent},
            **metta_checkpoint.progress(agent),
            metrics=_metrics(agent),
            notes=tuple(notes),
            tensors=file.tensors,
        )


def split(value: Any, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The optimizer's state dict, and everything else that a trainer keeps.

    Raises:
        FormatError: There is no state dict of an optimizer.
    """
    items = dict(value) if isinstance(value, Mapping) else {}
    key = next((key for key in _OPTIMIZERS if key in items), None)
    optimizer = None if key is None else items.pop(key)
    if not isinstance(optimizer, dict) or not {"state", "param_groups"} <= set(optimizer):
        found = "none" if key is None else type(optimizer).__name__
        raise FormatError(
            f"{name}: expected the state dict of an optimizer, with state and param_groups, found "
            f"{found}.",
            path=name,
            key="optimizer",
        )
    return optimizer, items


def _metrics(agent: Mapping[str, Any]) -> dict[str, float]:
    reward = agent.get("average_reward")
    return {"average_reward": reward} if type(reward) is float else {}


FORMAT = TrainerState()
