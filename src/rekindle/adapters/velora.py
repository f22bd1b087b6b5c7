"""Velora: its replay buffer, stored by rows. Everything else of an agent has an adapter already.

Source: velora 0.2.0, `velora/buffer/base.py`.
"""

from __future__ import annotations

from typing import Any

from rekindle.adapters.attributes import Attributes
from rekindle.graph import Walk
from rekindle.match import Match
from rekindle.rings import Ring

_ROWS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")


class Buffer(Attributes):
    """`BufferBase`: a ring of transitions, with the hidden state that each began with."""

    def capture(self, live: Any, walk: Walk, path: str) -> dict[str, Any]:
        """The attributes, with the tensors that have one row per transition as a ring."""
        position, capacity = live.position, live.capacity
        ring = Ring(
            capacity=capacity,
            position=position,
            num_filled=live.size,
            advanced=lambda: (live.position - position) % capacity,
        )
        walk.rows([getattr(live, name) for name in _ROWS], ring)
        return super().capture(live, walk, path)

    def asked(self, nodes: dict[str, Any], live: Any, match: Match) -> dict[str, Any]:
        """All but the device: the rows stay where the live ones are."""
        return {key: node for key, node in nodes.items() if key != "device"}


BUFFER = Buffer(
    "velora.replay_buffer",
    strict=True,
    equal=("capacity", "state_dim", "action_dim", "hidden_dim"),
)
