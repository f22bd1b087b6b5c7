"""`rekindle.velora`: a real agent comes back bit for bit, with what Velora's own save forgets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.interop.agents import KINDS, actions, built, differences, digest, train, trained

import rekindle as rk
import rekindle.velora
from rekindle.errors import MismatchError, NotFoundError, UnsupportedError


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest) -> Any:
    return trained(request.param)


def drawn() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(()))]


def test_a_new_agent_is_the_saved_one_with_its_coefficient_and_generators(agent: Any) -> None:
    rekindle.velora.save(agent, "saved")
    expected = drawn()
    found = rekindle.velora.load("saved", type(agent))
    assert drawn() == expected
    assert differences(agent, found) == []
    assert found.entropy.log_alpha.item() != 0
    assert actions(found) == actions(agent)


def test_its_own_save_forgets_the_coefficient(agent: Any) -> None:
    agent.save(Path("saved"), buffer=True, config=True)
    assert differences(agent, type(agent).load("saved", buffer=True)) == ["log_alpha"]


def test_an_agent_that_went_on_goes_back(agent: Any) -> None:
    rekindle.velora.save(agent, "saved.zip")
    before = digest(agent)
    train(agent, n_episodes=1)
    assert digest(agent) != before
    assert rekindle.velora.load("saved.zip", agent) is agent
    assert digest(agent) == before


def test_a_loaded_agent_learns_on_as_the_saved_one(agent: Any) -> None:
    rekindle.velora.save(agent, "saved")
    found = rekindle.velora.load("saved", type(agent))
    for learner in (agent, found):
        torch.manual_seed(5)
        for _ in range(3):
            learner._train_step(16)
    assert differences(agent, found) == []


def test_a_folder_of_velora_and_a_converted_one_load_too(agent: Any) -> None:
    agent.save(Path("own", "last"), buffer=True, config=True)
    rk.convert("own/last", "converted")
    for path in ("own", "own/last", "converted"):
        found = rekindle.velora.load(path, type(agent))
        assert differences(agent, found) == ["log_alpha"]


def test_the_buffer_is_left_out_where_nobody_asks_for_it(agent: Any) -> None:
    small = rekindle.velora.save(agent, "small", buffer=False, config=False, step=70)
    assert "replay_buffer" not in small
    assert "config" not in rk.load("small")["agent"]
    assert small.step == 70
    with pytest.raises(NotFoundError, match="replay_buffer"):
        rekindle.velora.load("small", type(agent))
    found = rekindle.velora.load("small", type(agent), buffer=False)
    assert {name.partition(".")[0] for name in differences(agent, found)} == {"buffer"}


def test_another_agent_is_refused_and_left_as_it_is(agent: Any) -> None:
    rekindle.velora.save(agent, "saved")
    [other] = [cls for cls, _ in KINDS.values() if cls is not type(agent)]
    with pytest.raises(MismatchError, match=f"expected an agent of class {type(agent).__name__}"):
        rekindle.velora.load("saved", other)
    [kind] = [kind for kind, (cls, _) in KINDS.items() if cls is type(agent)]
    wide = built(kind, actor_neurons=24)
    before = digest(wide)
    with pytest.raises(MismatchError, match=r"policy/ncp\.inter\.weight: expected float32"):
        rekindle.velora.load("saved", wide)
    assert digest(wide) == before
    with pytest.raises(MismatchError, match="replay_buffer/capacity: expected 150, found 99"):
        rekindle.velora.load("saved", built(kind, buffer_size=99))


def test_no_class_that_a_file_names_is_looked_up(agent: Any) -> None:
    agent.metadata["optim"] = "torch.optim.os.system"
    rekindle.velora.save(agent, "saved")
    with pytest.raises(UnsupportedError, match=r"found 'torch\.optim\.os\.system'"):
        rekindle.velora.load("saved", type(agent))
    found = rekindle.velora.load("saved", type(agent), optim=torch.optim.Adam)
    assert differences(agent, found) == []


def test_something_else_is_refused(agent: Any) -> None:
    rk.save("other", policy={"weight": np.zeros(3)})
    with pytest.raises(NotFoundError, match="expected an agent of Velora as `agent`, found policy"):
        rekindle.velora.load("other", type(agent))


def test_a_save_costs_the_rows_that_are_new(agent: Any) -> None:
    run = rk.Run("run")
    run.track(**rekindle.velora.components(agent))
    run.resume()
    first = run.save(step=1)
    agent._train_step(16)
    second = run.save(step=2)
    kept = [name for name in first.info["files"] if name.startswith("replay_buffer")]
    assert kept
    for name in kept:
        if name.endswith(".safetensors"):
            assert (first.path / name).stat().st_ino == (second.path / name).stat().st_ino
    run.close()
