"""Writes files of torch with what they hold beside them: python -m tests.golden.torch.regenerate

Written by torch 2.13; `legacy` files are what torch wrote until 1.5. Golden data is never written
again. `module*.pt` hold a whole module of a class that exists in this script alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_parameter("none", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), Inner())
        self.log_std = nn.Parameter(torch.zeros(2))
        self.again = self.body[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.sizes = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of every layout in memory."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "plain": base,
        "transposed": base.transpose(0, 2),
        "row": base[1],
        "stepped": base[:, ::2, 1:],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "channels_last": torch.randn(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "boolean": torch.tensor([True, False]),
        "half": torch.randn(3).half(),
        "double": torch.randn(3).double(),
        "complex": torch.randn(3, dtype=torch.cfloat),
        "conjugate": torch.randn(3, dtype=torch.cfloat).conj(),
        "bytes": torch.arange(200, 256, dtype=torch.uint8),
        "unsigned": torch.tensor([1, 65535], dtype=torch.uint16),
        "parameter": nn.Parameter(torch.randn(2)),
        "leaf": torch.randn(2, requires_grad=True),
    }


def bits() -> dict[str, torch.Tensor]:
    """Tensors of types that numpy lacks."""
    names = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu")
    return {name: torch.rand(5).to(getattr(torch, name)) for name in names}


def regenerate(root: Path) -> None:
    """Write every file below `root`."""
    torch.manual_seed(3)
    values, raw = tensors(), bits()
    expected = {
        name: np.asarray(value.detach().resolve_conj().numpy()) for name, value in values.items()
    }
    expected |= {
        f"bits/{name}": value.view(getattr(torch, f"uint{8 * value.itemsize}")).numpy()
        for name, value in raw.items()
    }
    torch.save(values | raw, root / "tensors.pt")
    # torch writes types that are younger than this layout into it, and cannot read them back.
    old = values | {"bfloat16": raw["bfloat16"]}
    del old["unsigned"]
    torch.save(old, root / "tensors_legacy.pt", _use_new_zipfile_serialization=False)
    agent = Agent()
    agent.body(torch.randn(4, 2))
    expected |= {f"module/{name}": value.numpy() for name, value in agent.state_dict().items()}
    torch.save(agent, root / "module.pt")
    torch.save(agent, root / "module_legacy.pt", _use_new_zipfile_serialization=False)
    scripted = torch.jit.script(Scripted())
    scripted.save(str(root / "script.pt"))
    expected |= {f"script/{name}": value.numpy() for name, value in scripted.state_dict().items()}
    np.savez(root / "expected.npz", **expected)  # type: ignore[arg-type]


if __name__ == "__main__":
    regenerate(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
