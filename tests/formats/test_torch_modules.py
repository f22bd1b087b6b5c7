from __future__ import annotations

import io

import torch
from torch import nn

from rekindle import spans
from rekindle.formats import torch_files, torch_modules
from rekindle.limits import Budget
from rekindle.state import Record
from rekindle.tensors import Tensors


class Odd(nn.Module):
    """Holds modules and tensors outside of where modules keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.shared = self.layer
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("dropped", torch.ones(1), persistent=False)
        self.register_parameter("nothing", None)
        self.__dict__["outside"] = nn.Linear(5, 5)
        self.loose = torch.zeros(3)


def recorded(module: nn.Module) -> torch_files.TorchFile:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    return torch_files.read(spans.of_bytes(buffer.getvalue(), "x"), Budget())


def test_names_and_order_are_those_of_state_dict() -> None:
    for module in (Odd(), nn.Sequential(Odd(), nn.Sequential(nn.BatchNorm1d(2)), Odd())):
        file = recorded(module)
        found = torch_modules.state_dict(file.value, file.tensors)
        live = module.state_dict()
        assert list(found) == list(live)
        assert all(found[name].tobytes() == live[name].numpy().tobytes() for name in live)


def test_other_records_are_no_modules() -> None:
    assert not torch_modules.is_module(Record("a:B", {"_parameters": {}}))
    assert not torch_modules.is_module({"_parameters": {}, "_buffers": {}, "_modules": {}})
    assert not torch_modules.is_module(None)


def test_a_module_that_holds_itself_ends() -> None:
    inner: dict[str, object] = {}
    fields: dict[str, object] = {"_parameters": {}, "_buffers": {}, "_modules": inner}
    module = Record("a:B", fields)
    inner["again"] = module
    assert torch_modules.state_dict(module, Tensors()) == {}
