from __future__ import annotations

import warnings

import cloudpickle
import numpy as np
import pytest
from stable_baselines3.common import utils

from rekindle import spans
from rekindle.formats.schedules import Constant, Linear, recognise
from rekindle.pickles import reading
from rekindle.state import Record


def stored(schedule: object) -> object:
    return reading.read(spans.of_bytes(cloudpickle.dumps(schedule), "x")).value


def old_linear() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the functions that old files hold are deprecated
        return utils.get_linear_fn(1.0, 0.05, 0.1)


def test_schedules_of_sb3_are_recognised_and_give_the_same_values() -> None:
    for schedule in (
        utils.FloatSchedule(0.25), utils.FloatSchedule(utils.LinearSchedule(1.0, 0.05, 0.1)),
        utils.LinearSchedule(3e-4, 0, 1), utils.ConstantSchedule(0.1), old_linear(),
    ):  # fmt: skip
        found = recognise(stored(schedule))
        assert found is not None
        for remaining in np.linspace(1, 0, 101):
            assert found.at(remaining) == schedule(remaining)  # type: ignore[operator]


def test_numbers_are_constants() -> None:
    assert recognise(3e-4) == Constant(3e-4)
    assert recognise(np.float32(0.5)) == Constant(0.5)
    assert recognise(1) == Constant(1.0)


@pytest.mark.parametrize(
    "value", [None, True, "auto", float("nan"), 10**400, 1j, np.complex64(1), [1.0], object()]
)
def test_other_values_are_not(value: object) -> None:
    assert recognise(value) is None


def test_functions_of_the_user_s_own_are_not_guessed_at() -> None:
    initial = 0.1
    assert recognise(stored(lambda remaining: remaining * initial)) is None
    assert recognise(stored(utils.FloatSchedule(lambda remaining: initial))) is None


def test_a_record_that_only_looks_like_one_is_not() -> None:
    label = "stable_baselines3.common.utils:LinearSchedule"
    assert recognise(Record(label, {"start": 1.0, "end": 0.0, "end_fraction": 0.5})) is None
    zero = stored(utils.LinearSchedule(1.0, 0.0, 0.0))
    assert recognise(zero) is None
    assert Linear(1.0, 0.0, 0.5).at(0.25) == 0.0
    loop: Record = utils.FloatSchedule(1.0)  # type: ignore[assignment]
    found = stored(loop)
    found["value_schedule"]._fields["val"] = found  # type: ignore[index]
    assert recognise(found) is None
