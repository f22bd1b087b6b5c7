"""Objects that are written by name load as the very same, and no others are written."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rekindle import spans
from rekindle.errors import UnsupportedError
from rekindle.formats import known_objects, torch_files
from rekindle.limits import Budget
from rekindle.pickles import writing
from rekindle.pickles.records import Recorded
from rekindle.state import Record, Reference
from rekindle.tensors import Tensors

BOX = spaces.Box(-1, 1, (2,), np.float32, seed=1)
SPACES = [
    BOX,
    spaces.Box(-np.inf, np.array([1.0, np.inf]), dtype=np.float64),
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary([2, 3]),
    spaces.Text(5),
    spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}),
    spaces.Tuple([BOX, BOX]),
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Graph(BOX, spaces.Discrete(3)),
]
GENERATORS = [
    np.random.default_rng(3),
    np.random.Generator(np.random.MT19937(3)),
    np.random.Generator(np.random.Philox(3)),
    np.random.Generator(np.random.SFC64(3)),
    np.random.RandomState(3),
]


def again(value: Any) -> Any:
    """A value that was pickled, read as data, written from that, and loaded."""
    span = spans.of_bytes(pickle.dumps(value), "it")
    read = torch_files.read_pickle(span, Budget(name="it"), tensors=Tensors()).value
    return pickle.loads(writing.dumps(read, known=known_objects.known, protocol=4))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_spaces_come_back_with_their_generators(space: Any) -> None:
    found = again(space)
    assert found == space
    for live in (space, found):
        live.seed(4)
    assert repr(found.sample()) == repr(space.sample())


def test_a_live_space_is_written_too() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(2)})
    data = writing.dumps({"a": space}, known=known_objects.known)
    assert pickle.loads(data)["a"] == space


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda each: repr(each).partition(" ")[0])
def test_generators_go_on_where_they_were(generator: Any) -> None:
    found = again(generator)
    assert found.normal(size=3).tolist() == generator.normal(size=3).tolist()
    assert found.bytes(9) == generator.bytes(9)


def test_children_of_a_generator_are_the_same() -> None:
    generator = np.random.default_rng(3)
    one, two = generator.spawn(1)[0], again(np.random.default_rng(3)).spawn(1)[0]
    assert one.random() == two.random()


def test_devices_numbers_and_tensors_of_torch() -> None:
    assert again(torch.device("cpu")) == torch.device("cpu")
    assert again(np.float32) is np.float32
    array = np.arange(3.0)
    found = pickle.loads(writing.dumps(known_objects.tensor(array, "float32")))
    assert found.dtype == torch.float32
    assert found.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "value",
    [
        Reference("os:system"),
        Reference("numpy:load"),
        Record("os:system", {}),
        Record("gymnasium.spaces.box:Discrete", {}),
        Record("gymnasium.spaces.evil:Box", {}),
        Record("gymnasium.spaces.utils:flatten", {}),
        Record("numpy.random._generator:Generator", {"bit_generator": "os"}),
        Record("numpy.random._pcg64:Other", {"state": {}}),
        Recorded("numpy.random.bit_generator:__pyx_unpickle_SeedSequence"),
        object(),
    ],
    ids=repr,
)
def test_nothing_else_is_written_by_name(value: Any) -> None:
    assert known_objects.known(value) is None
    with pytest.raises(UnsupportedError):
        writing.dumps([value], known=known_objects.known)
