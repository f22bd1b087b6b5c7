"""Signals as in a process of its own: no run of a test before, and no handler of a library.

Tensordict sets a handler for SIGTERM when it first maps memory.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rekindle import preemption


@contextmanager
def no_handlers() -> Iterator[None]:
    """Nothing listens to what asks a process to end, until the end of the block."""
    gc.collect()
    for watch in tuple(preemption._signals.watches):
        watch.end()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in preemption.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
