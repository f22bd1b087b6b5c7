"""Stable-Baselines3's policies: torch modules whose gradients are no state.

Source: SB3 2.9, `train` of each algorithm: gradients are cleared before they are computed.
"""

from __future__ import annotations

from rekindle.adapters.torch_module import Module

POLICY = Module("sb3.policy", keeps_gradients=False)
