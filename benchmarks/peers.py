"""Other ways to save the same state, each as its documentation shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import disk
import orbax.checkpoint
import safetensors.torch
import torch
from torch.distributed.checkpoint import state_dict_saver as dcp

State = dict[str, torch.Tensor]


class Peer:
    """A saver that writes everything anew, and does not flush.

    Args:
        root: Directory to write to.
        state: Gives the tensors to save, which share memory with what is trained.
    """

    name = ""

    def __init__(self, root: Path, state: Callable[[], State]) -> None:
        self.path = root / self.name.replace(" ", "-")
        self.state = state

    def prepare(self) -> None:
        """Nothing to prepare."""

    def save(self) -> None:
        """Save; a subclass says how."""
        raise NotImplementedError

    def finish(self) -> None:
        """Flush every file and directory."""
        disk.flush_all(self.path)

    def clean(self) -> None:
        """Remove the save."""
        disk.remove(self.path)


class StableBaselines(Peer):
    """`save` and `save_replay_buffer`, the two files that SB3's users keep."""

    name = "SB3"

    def __init__(self, root: Path, model: Any) -> None:
        super().__init__(root, dict)
        self.model = model

    def prepare(self) -> None:
        """Make the directory."""
        self.path.mkdir()

    def save(self) -> None:
        """Write both files."""
        self.model.save(self.path / "model.zip")
        self.model.save_replay_buffer(self.path / "buffer.pkl")

    def load(self) -> Any:
        """Both files, as a new model."""
        model = type(self.model).load(self.path / "model.zip", device="cpu")
        model.load_replay_buffer(self.path / "buffer.pkl")
        return model


class TorchSave(Peer):
    """`torch.save`."""

    name = "torch.save"

    def save(self) -> None:
        """Write the file."""
        torch.save(self.state(), self.path)


class Safetensors(Peer):
    """`safetensors.torch.save_file`."""

    name = "safetensors"

    def save(self) -> None:
        """Write the file."""
        safetensors.torch.save_file(self.state(), self.path)


class DCP(Peer):
    """`torch.distributed.checkpoint.save`, without a process group."""

    name = "DCP save"

    def save(self) -> None:
        """Write the directory."""
        dcp.save(self.state(), checkpoint_id=self.path, no_dist=True)


class AsyncDCP(Peer):
    """`torch.distributed.checkpoint.async_save`, without a process group."""

    name = "DCP async_save"

    def save(self) -> None:
        """Copy the state; a thread writes the directory."""
        self._future = dcp.async_save(self.state(), checkpoint_id=self.path, no_dist=True)

    def finish(self) -> None:
        """Wait for the thread, and flush."""
        assert not isinstance(self._future, dcp.AsyncSaveResponse)
        self._future.result()
        super().finish()


class Orbax(Peer):
    """`StandardCheckpointer`, which saves in the background, with numpy arrays.

    It takes JAX arrays too. Those that share memory with what is trained are not copied, so what is
    saved changes while it is written: no snapshot, and not measured here.
    """

    name = "Orbax"

    def __init__(self, root: Path, state: Callable[[], State]) -> None:
        super().__init__(root, state)
        self._checkpointer = orbax.checkpoint.StandardCheckpointer()

    def save(self) -> None:
        """Copy the state; threads write the directory."""
        arrays = {name: tensor.numpy() for name, tensor in self.state().items()}
        self._checkpointer.save(self.path.resolve(), arrays)

    def finish(self) -> None:
        """Wait for the threads, and flush."""
        self._checkpointer.wait_until_finished()
        super().finish()


def of_tensors(root: Path, state: Callable[[], State]) -> list[Peer]:
    """Every peer that saves tensors by name."""
    return [kind(root, state) for kind in (Safetensors, TorchSave, DCP, AsyncDCP, Orbax)]
