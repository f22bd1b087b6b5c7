"""Proof that a training loop resumes exactly, for use in anyone's tests.

from rekindle.testing import assert_resumes_exactly

def test_my_loop_resumes_exactly():
    assert_resumes_exactly(make_loop, steps=50, at=20)
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rekindle import trail
from rekindle.adapters.sb3 import WALL_CLOCK
from rekindle.checkpoint import Checkpoint, open_checkpoint, save
from rekindle.errors import Difference, UnsupportedError, listing
from rekindle.report import plural

Loop: TypeAlias = tuple[Mapping[str, Any], Callable[[], object]]
"""The components by name, and a function that does one iteration."""

_SHOWN = 10
"""How many of the values that differ a message lists."""


def assert_resumes_exactly(
    make: Callable[[], Loop],
    *,
    steps: int,
    at: int | Sequence[int],
    ignore: Sequence[str] = (),
    exclude: Sequence[str] = (),
    classes: Sequence[type] = (),
) -> None:
    """Assert that a loop that is interrupted and resumed does what the uninterrupted one does.

    The loop is run twice: to its end, with a digest of every component after every iteration; and
    once more, where at each interruption its components are saved, the global random generators
    are scrambled, a new loop is made, and the components are restored into it. All in this process
    and in a temporary directory; `rekindle verify-resume` does it with a script and SIGKILL.

    Args:
        make: Builds the loop afresh, as the script does when it starts, seeds included. Returns its
            components by name, as for `Run.track`, and a function that does one iteration.
        steps: Iterations of the whole loop.
        at: After how many iterations it is interrupted; or several such numbers.
        ignore: Patterns of paths whose values may differ, such as `"progress/started"`. Values that
            say how long something took are ignored in any case.
        exclude: Paths to leave out of the checkpoints, as in `rekindle.save`.
        classes: Classes that the state may hold where a new loop holds none.

    Raises:
        AssertionError: They differ. It names the first iteration after which they do, the first
            component, and the values.
        UnsupportedError: `at` is not between 0 and `steps`, or a component cannot be saved.
    """
    moments = sorted({at} if isinstance(at, int) else set(at))
    if not moments or not all(0 <= moment < steps for moment in moments):
        raise UnsupportedError(
            f"at={at!r}: expected numbers of iterations from 0 to {steps - 1}, one less than "
            f"steps={steps}."
        )
    proof = _Proof(make, steps, (*WALL_CLOCK, *ignore), tuple(exclude), tuple(classes))
    with _generators_kept(), tempfile.TemporaryDirectory(prefix="rekindle-testing-") as directory:
        proof.run(Path(directory), moments)


class _Proof:
    def __init__(
        self,
        make: Callable[[], Loop],
        steps: int,
        ignore: tuple[str, ...],
        exclude: tuple[str, ...],
        classes: tuple[type, ...],
    ) -> None:
        self._make = make
        self._steps = steps
        self._ignore = ignore
        self._exclude = exclude
        self._classes = classes
        self._start = _generators()

    def run(self, directory: Path, moments: list[int]) -> None:
        """Run the loop both ways and compare after every iteration, and the ends in full."""
        self._directory = directory
        expected = self._uninterrupted()
        components, step = self._begin()
        resumed_at: int | None = None
        for count in range(self._steps + 1):
            if count:
                step()
            self._check(components, expected[count], count, resumed_at)
            if count in moments:
                saved = self._save(f"at-{count}", components)
                components, step = self._resume(saved.path)
                resumed_at = count
                self._check(components, expected[count], count, resumed_at)
        end = self._save("end", components)
        differences = self._compare(open_checkpoint(directory / "uninterrupted"), end)
        if differences:
            raise AssertionError(self._message(self._steps, resumed_at, (), differences))

    def _begin(self) -> Loop:
        """A loop as it is made when the script starts."""
        _set_generators(self._start)
        return self._make()

    def _uninterrupted(self) -> list[dict[str, str]]:
        components, step = self._begin()
        found = [self._digests(components)]
        for _ in range(self._steps):
            step()
            found.append(self._digests(components))
        self._save("uninterrupted", components)
        return found

    def _resume(self, path: Path) -> Loop:
        """A loop as another process would make it, with what was saved put into it."""
        _scramble_generators()
        components, step = self._make()
        open_checkpoint(path).restore(components, classes=self._classes)
        return components, step

    def _save(self, name: str, components: Mapping[str, Any]) -> Checkpoint:
        return save(self._directory / name, exclude=self._exclude, **components)

    def _digests(self, components: Mapping[str, Any]) -> dict[str, str]:
        return trail.digests(components, components, exclude=self._exclude, ignore=self._ignore)

    def _check(
        self,
        components: Mapping[str, Any],
        expected: dict[str, str],
        count: int,
        resumed_at: int | None,
    ) -> None:
        found = self._digests(components)
        different = [name for name in expected if found.get(name) != expected[name]]
        if not different:
            return
        end = self._save("found", components)
        again, step = self._begin()
        for _ in range(count):
            step()
        if resumed_at is not None and self._digests(again) != expected:
            resumed_at = None
        differences = self._compare(self._save("expected", again), end)
        raise AssertionError(self._message(count, resumed_at, different, differences))

    def _compare(self, one: Checkpoint, two: Checkpoint) -> list[Difference]:
        compared = one.compare(two, ignore=self._ignore)
        return [difference for item in compared for difference in item.differences]

    def _message(
        self,
        count: int,
        resumed_at: int | None,
        different: Sequence[str],
        differences: Sequence[Difference],
    ) -> str:
        names = list(different) or list(dict.fromkeys(d.key.partition("/")[0] for d in differences))
        first, *others = names
        also = f" (and {', '.join(others)})" if others else ""
        where = f"after {plural(count, 'iteration')}"
        if resumed_at is None:
            head = f"the loop is not the same twice, without any interruption: {first}{also} "
            head += f"differs {where}"
            remedy = "Seed everything that it draws from, in make()."
        elif count == resumed_at:
            head = f"{first}{also} differs at once where the loop was resumed, {where}"
            remedy = "What is not restored, or what make() leaves different, is listed above."
        else:
            head = f"{first}{also} differs first {where}; the loop was resumed after {resumed_at}"
            remedy = (
                "All components were equal where it was resumed, so it also depends on something "
                "that is not among them: a random generator of its own, a variable of the loop."
            )
        shown = listing(differences, _SHOWN) or "  (values that differ only now and then)"
        return f"{head}.\n{shown}\n{remedy}"


# --------------------------------------------------------------------------- global generators


def _generators() -> dict[str, Any]:
    """The states of the global generators."""
    found = {"python": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_rng_state()
    return found


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(states["torch"])


def _scramble_generators() -> None:
    """Bring the global generators to a state that no script would choose."""
    random.seed(0x5EED)
    np.random.seed(0x5EED)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0x5EED)


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the global generators to other tests as they were."""
    states = _generators()
    try:
        yield
    finally:
        _set_generators(states)
