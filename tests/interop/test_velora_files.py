"""Velora's own folders: those it writes are read equal, those we write load and act the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.interop.agents import BATCH, KINDS, actions, built, differences, tensors, trained
from velora.callbacks import SaveCheckpoints
from velora.models import NeuroFlow, NeuroFlowCT

import rekindle as rk
import rekindle.velora
from rekindle.formats.velora import FORMAT, checkpoints

GOLDEN = Path(__file__).parents[1] / "golden" / "velora"
CASES = sorted(path.parent for path in GOLDEN.glob("*/expected.json"))
CLASSES = {"NeuroFlow": NeuroFlow, "NeuroFlowCT": NeuroFlowCT}


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest) -> Any:
    return trained(request.param)


def arrays(components: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a reading, by the name that the live agent has for it."""
    networks = {"actor": components["policy"], **components["target"]}
    networks |= {name: components[name] for name in ("critic", "critic2")}
    found = {
        f"{net}.{name}": part for net, state in networks.items() for name, part in state.items()
    }
    for name in ("actor", "critic", "critic2", "entropy"):
        for index, moments in components[f"{name}_optimizer"]["state"].items():
            found |= {f"{name}_optim.{index}.{key}": part for key, part in moments.items()}
    buffer = components["replay_buffer"]
    rows = {key: part for key, part in buffer.items() if isinstance(part, np.ndarray)}
    return found | {f"buffer.{key}": part for key, part in rows.items()}


def test_what_velora_writes_is_read_equal(agent: Any) -> None:
    agent.save(Path("saves", "last"), buffer=True, config=True)
    opened = rk.open("saves/last")
    found, expected = arrays(opened), dict(tensors(agent))
    del expected["log_alpha"]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.numpy().dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.numpy().tobytes(), name
    assert opened["agent"]["model"] == json.loads(json.dumps(agent.metadata))
    assert opened["agent"]["config"] == agent.config.model_dump(mode="json", exclude_none=True)
    told = {key: opened["replay_buffer"][key] for key in agent.buffer.metadata()}
    assert told == agent.buffer.metadata()


def test_what_we_write_loads_and_acts_the_same(agent: Any) -> None:
    agent.save(Path("saves", "last"), buffer=True, config=True)
    FORMAT.write(FORMAT.read(Path("saves", "last")), Path("written", "last"))
    loaded = type(agent).load("written/last", buffer=True)
    assert actions(loaded) == actions(agent)
    assert differences(agent, loaded) == ["log_alpha"]
    assert Path("written/model_config.json").read_text() == (
        Path("saves/model_config.json").read_text()
    )


def test_there_and_back_through_our_format_loads_and_acts_the_same(agent: Any) -> None:
    agent.save(Path("saves", "last"), buffer=True, config=True)
    rk.convert("saves/last", "ours")
    rk.convert("ours", "back/last", to="velora")
    loaded = type(agent).load("back/last", buffer=True)
    assert actions(loaded) == actions(agent)
    assert differences(agent, loaded) == ["log_alpha"]


def test_a_saved_agent_becomes_a_folder_of_velora_that_keeps_the_coefficient(agent: Any) -> None:
    rekindle.velora.save(agent, "ours")
    report = rk.convert("ours", "folder/last", to="velora")
    assert {lost.key for lost in report.lost} >= {"env", "rng"}
    loaded = type(agent).load("folder/last", buffer=True)
    assert actions(loaded) == actions(agent)
    assert differences(agent, loaded) == ["log_alpha"]
    assert differences(agent, rekindle.velora.load("folder/last", type(agent))) == []


def test_the_layout_of_its_callback_is_read_and_written() -> None:
    agent = built("discrete")
    saving = SaveCheckpoints("cart", frequency=2, buffer=True)
    agent.train(BATCH, n_episodes=5, max_steps=20, display_count=100, callbacks=[saving])
    names = ["CartPole_2", "CartPole_4", "CartPole_final"]
    assert [path.name for path in checkpoints(Path("checkpoints/cart"))] == names
    opened = rk.open("checkpoints/cart")
    told = json.loads(Path("checkpoints/cart/saves/completed.json").read_text())
    assert (opened.step, opened.counters) == (told["steps"], {"episodes": told["episodes"]})
    for name in names:
        reading = FORMAT.read(Path("checkpoints/cart/saves", name))
        FORMAT.write(reading, Path("checkpoints/copy/saves", name))
        one = NeuroFlow.load(f"checkpoints/cart/saves/{name}", buffer=True)
        other = NeuroFlow.load(f"checkpoints/copy/saves/{name}", buffer=True)
        assert differences(one, other) == []
    assert differences(agent, other) == ["log_alpha"]
    assert json.loads(Path("checkpoints/copy/saves/completed.json").read_text()) == told


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_of_an_earlier_process_written_again_acts_as_it_did(case: Path) -> None:
    told, expected = (
        json.loads((case / "expected.json").read_text()),
        np.load(case / "expected.npz"),
    )
    FORMAT.write(FORMAT.read(case / told["checkpoint_dir"]), Path("written", "last"))
    has_buffer = Path("written/last/buffer_state.safetensors").exists()
    loaded = CLASSES[told["class"]].load("written/last", buffer=has_buffer)
    observations = torch.from_numpy(expected["probe/obs"])
    # Sums of a batch may be taken in another order on another machine, so these are not compared
    # bit for bit; what was trained in this process is, above.
    acted, hidden = loaded.predict(observations)
    again, _ = loaded.predict(observations, hidden)
    for name, found in (
        ("actions", acted), ("hidden_out", hidden), ("actions_second_call_with_hidden", again),
    ):  # fmt: skip
        np.testing.assert_allclose(
            found.numpy(), expected[f"probe/{name}"], rtol=1e-5, atol=1e-6, err_msg=name
        )
