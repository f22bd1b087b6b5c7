"""Random number generators go on with the numbers that they would have drawn next."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rekindle as rk
from rekindle.adapters.generators import GlobalRNG

NUM_DRAWS = 100
BIT_GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


def _draw_python(generator: Any) -> list[Any]:
    return [
        (generator.random(), generator.gauss(0, 1), generator.getrandbits(70))
        for _ in range(NUM_DRAWS)
    ]


def _draw_numpy(generator: Any) -> list[Any]:
    # Odd numbers of 32-bit draws leave half a word behind.
    return [
        (
            generator.random(),
            generator.integers(0, 9, dtype=np.uint32),
            generator.standard_normal(dtype=np.float32),
            generator.permutation(3).tolist(),
        )
        for _ in range(NUM_DRAWS)
    ]


def _draw_legacy(generator: Any) -> list[Any]:
    return [(generator.standard_normal(), generator.randint(9)) for _ in range(NUM_DRAWS)]


def _draw_torch(generator: Any) -> list[Any]:
    return [
        (torch.rand((), generator=generator).item(), torch.randn(17, generator=generator).tolist())
        for _ in range(NUM_DRAWS)
    ]


class Loaded(random.Random):
    """A generator with state of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.num_draws = 0

    def random(self) -> float:
        self.num_draws += 1
        return super().random() / self.num_draws


def _over(name: str) -> Callable[[int], Any]:
    return lambda seed: np.random.Generator(getattr(np.random, name)(seed))


def _legacy_over(name: str) -> Callable[[int], Any]:
    return lambda seed: np.random.RandomState(getattr(np.random, name)(seed))


GENERATORS: dict[str, tuple[Callable[[int], Any], Callable[[Any], list[Any]]]] = {
    "random.Random": (random.Random, _draw_python),
    "a class of random.Random": (Loaded, _draw_python),
    "RandomState": (np.random.RandomState, _draw_legacy),
    "torch.Generator": (lambda seed: torch.Generator().manual_seed(seed), _draw_torch),
    **{name: (_over(name), _draw_numpy) for name in BIT_GENERATORS},
    **{f"RandomState over {name}": (_legacy_over(name), _draw_legacy) for name in BIT_GENERATORS},
}


def _warm(generator: Any, draw: Callable[[Any], list[Any]]) -> None:
    draw(generator)
    # One more of a pair of normals, so that the second of it is left over.
    if isinstance(generator, random.Random):
        generator.gauss(0, 1)
    elif isinstance(generator, np.random.RandomState):
        generator.standard_normal()
    elif isinstance(generator, np.random.Generator):
        generator.integers(0, 9, dtype=np.uint32)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_goes_on_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    make, draw = GENERATORS[name]
    generator = make(3)
    _warm(generator, draw)
    rk.save(tmp_path / "saved", rng=generator)
    expected = draw(generator)
    other = make(999)
    report = rk.restore(tmp_path / "saved", rng=other)
    assert draw(other) == expected
    assert not report.notes
    assert draw(make(999)) != expected, "any generator would have passed"


@pytest.mark.parametrize("name", ["random.Random", "RandomState"])
def test_the_second_half_of_a_pair_of_normals_matters(name: str, tmp_path: Path) -> None:
    make, draw = GENERATORS[name]
    generator = make(3)
    _warm(generator, draw)
    rk.save(tmp_path / "saved", rng=generator)
    other = make(3)
    rk.restore(tmp_path / "saved", rng=other)
    if isinstance(other, random.Random):
        assert other.gauss_next is not None
        other.gauss_next = None
    else:
        state: Any = other.get_state(legacy=False)
        assert state["has_gauss"] == 1
        other.set_state({**state, "has_gauss": 0})
    assert draw(other) != draw(generator)


@pytest.mark.parametrize("name", BIT_GENERATORS)
def test_a_bit_generator_alone_goes_on(name: str, tmp_path: Path) -> None:
    bits = getattr(np.random, name)(3)
    bits.random_raw(11)
    rk.save(tmp_path / "saved", rng=bits)
    expected = bits.random_raw(NUM_DRAWS).tolist()
    other = getattr(np.random, name)(4)
    rk.restore(tmp_path / "saved", rng=other)
    assert other.random_raw(NUM_DRAWS).tolist() == expected


@pytest.mark.parametrize("seed", [3, 999, [1, 2, 3], np.random.SeedSequence(3, spawn_key=(7,))])
def test_children_spawned_later_are_the_same(seed: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    first = generator.spawn(2)
    rk.save(tmp_path / "saved", rng=generator)
    expected = [_draw_numpy(child) for child in generator.spawn(2)]
    other = np.random.default_rng(seed)
    report = rk.restore(tmp_path / "saved", rng=other)
    assert [_draw_numpy(child) for child in other.spawn(2)] == expected
    assert not report.notes
    assert _draw_numpy(first[0]) not in expected


def test_a_generator_that_spawned_too_often_is_put_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    rk.save(tmp_path / "saved", rng=generator)
    expected = [_draw_numpy(child) for child in generator.spawn(2)]
    rk.restore(tmp_path / "saved", rng=generator)
    assert [_draw_numpy(child) for child in generator.spawn(2)] == expected


def _family(seed: int) -> dict[str, Any]:
    bits = np.random.PCG64(seed)
    sequence = np.random.SeedSequence(seed + 1)
    return {
        "one": np.random.Generator(bits),
        "two": np.random.Generator(bits),
        "alone": np.random.default_rng(seed),
        "cousins": [np.random.default_rng(sequence), np.random.default_rng(sequence)],
        "python": random.Random(seed),
    }


def test_generators_that_share_their_bits_go_on_sharing_them(tmp_path: Path) -> None:
    family = _family(3)
    family["two"].random(5)
    rk.save(tmp_path / "saved", rng=family)
    other = _family(8)
    rk.restore(tmp_path / "saved", rng=other)
    assert other["one"].bit_generator is other["two"].bit_generator
    assert other["one"].bit_generator is not other["alone"].bit_generator
    for _ in range(NUM_DRAWS):
        for name in ("one", "two", "alone"):
            assert family[name].random() == other[name].random()
    for index in (0, 1, 0):
        mine, theirs = (x["cousins"][index].spawn(1)[0] for x in (family, other))
        assert mine.random() == theirs.random()


def test_what_was_one_generator_does_not_stay_two(tmp_path: Path) -> None:
    shared = np.random.default_rng(3)
    rk.save(tmp_path / "saved", rng={"env": shared, "agent": shared})
    other = {"env": np.random.default_rng(4), "agent": np.random.default_rng(5)}
    rk.restore(tmp_path / "saved", rng=other)
    assert other["env"] is other["agent"]
    assert other["env"].random() == shared.random()


def test_a_generator_comes_back_where_there_was_none_yet(tmp_path: Path) -> None:
    made = {name: make(3) for name, (make, _) in GENERATORS.items() if make is not Loaded}
    rk.save(tmp_path / "saved", rng=made)
    other: dict[str, Any] = dict.fromkeys(made)
    rk.restore(tmp_path / "saved", rng=other)
    for name, generator in made.items():
        draw = GENERATORS[name][1]
        assert draw(other[name]) == draw(generator), name
    spawned = made["PCG64"].spawn(1)[0].random()
    assert other["PCG64"].spawn(1)[0].random() == spawned


def test_a_class_of_ones_own_is_not_rebuilt_as_another(tmp_path: Path) -> None:
    rk.save(tmp_path / "saved", rng={"mine": Loaded(3)})
    with pytest.raises(rk.MismatchError, match="Loaded"):
        rk.restore(tmp_path / "saved", rng={"mine": None})


def test_generators_of_another_kind_do_not_fit_and_are_not_changed(tmp_path: Path) -> None:
    saved = {
        "numpy": np.random.default_rng(3),
        "legacy": np.random.RandomState(3),
        "python": random.Random(3),
        "torch": torch.Generator(),
        "fitting": random.Random(3),
    }
    rk.save(tmp_path / "saved", rng=saved)
    live: dict[str, Any] = {
        "numpy": np.random.Generator(np.random.SFC64(1)),
        "legacy": np.random.RandomState(np.random.PCG64(1)),
        "python": np.random.default_rng(1),
        "torch": random.Random(1),
        "fitting": random.Random(1),
    }
    states = [repr(live["numpy"].bit_generator.state), live["fitting"].getstate()]
    with pytest.raises(rk.MismatchError) as caught:
        rk.restore(tmp_path / "saved", rng=live)
    assert [difference.key for difference in caught.value.differences] == [
        "rng/numpy.bit_generator", "rng/legacy", "rng/python", "rng/torch"
    ]  # fmt: skip
    assert [repr(live["numpy"].bit_generator.state), live["fitting"].getstate()] == states


def test_a_generator_of_the_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rk.UnsupportedError, match=r"agent/dice: random\.SystemRandom"):
        rk.save(tmp_path / "saved", agent={"dice": random.SystemRandom()})


def test_part_of_a_generator_cannot_be_left_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    rk.save(tmp_path / "saved", exclude=["*.state", "*.words", "*.inc"], env={"rng": generator})
    other = {"rng": np.random.default_rng(4)}
    rk.restore(tmp_path / "saved", env=other)
    assert other["rng"].random() == generator.random()


# --------------------------------------------------------------------------- the global ones


@pytest.fixture
def _global_generators() -> Any:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _draw_global() -> dict[str, list[Any]]:
    return {
        "python": _draw_python(random),
        "numpy": _draw_legacy(np.random),
        "torch": [torch.randn(3).tolist() for _ in range(NUM_DRAWS)],
    }


def _seed_global(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.usefixtures("_global_generators")
def test_the_global_generators_go_on_with_the_same_numbers(tmp_path: Path) -> None:
    _seed_global(3)
    random.gauss(0, 1)
    np.random.standard_normal()
    rk.save(tmp_path / "saved", rng=GlobalRNG())
    expected = _draw_global()
    _seed_global(4)
    other = _draw_global()
    assert all(other[name] != expected[name] for name in expected)
    rk.restore(tmp_path / "saved", rng=rk.GlobalRNG())
    assert _draw_global() == expected


@pytest.mark.usefixtures("_global_generators")
def test_saving_draws_nothing(tmp_path: Path) -> None:
    _seed_global(3)
    expected = _draw_global()
    _seed_global(3)
    rk.save(tmp_path / "saved", rng=GlobalRNG(), agent={"weights": torch.zeros(3)})
    assert _draw_global() == expected


@pytest.mark.usefixtures("_global_generators")
def test_a_restore_that_does_not_fit_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    _seed_global(3)
    rk.save(tmp_path / "saved", rng=GlobalRNG(), policy=torch.nn.Linear(2, 2))
    _seed_global(4)
    expected = _draw_global()
    _seed_global(4)
    live = torch.nn.Linear(3, 2)
    _seed_global(4)
    with pytest.raises(rk.MismatchError):
        rk.restore(tmp_path / "saved", rng=GlobalRNG(), policy=live)
    assert _draw_global() == expected
