"""What export_module refuses: one line that names the user's own module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import reformer_pytorch
import torch
from torch import nn
from transformers import ReformerModel
from transformers.models.reformer import modeling_reformer

import reformer_export
from reformer_export.errors import ReformerExportError
from tests.hf_models import config_t

SIZE = 16


def attention(**keywords: Any) -> Any:
    return reformer_pytorch.LSHSelfAttention(SIZE, heads=2, bucket_size=4, n_hashes=2, **keywords)


class Network(nn.Module):
    """A layer among others, at encoder.blocks.0."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"blocks": nn.ModuleList([layer])})
        self.head = nn.Linear(SIZE, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder["blocks"][0](x))


class Changed(reformer_pytorch.LSHSelfAttention):
    def forward(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return 2 * super().forward(x, **kwargs)


class Rehashed(modeling_reformer.LSHSelfAttention):
    def _hash_vectors(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super()._hash_vectors(*args, **kwargs)


class OnData(Network):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if y.sum() > 0 else -y


class OnLength(Network):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        if length % 8 == 0:
            return super().forward(x)
        zeros = torch.zeros(x.shape[0], 8 - length % 8, SIZE)
        return super().forward(torch.cat([x, zeros], 1))[:, :length]


class Noisy(Network):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.randn_like(x))


class Inner(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, keys=x)


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reformer = ReformerModel(config_t())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result = self.reformer(ids, output_hidden_states=True)
        return torch.stack(result.hidden_states)


class Buckets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = modeling_reformer.LSHSelfAttention(config_t(num_hashes=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).buckets.float()


class Uncalled(Network):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def hooked() -> nn.Module:
    layer = attention()
    layer.tov.register_forward_hook(lambda *_: None)
    return Network(layer)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Network(attention())


def without_causal_axes() -> nn.Module:
    return Network(attention(attend_across_buckets=False))


def adapted() -> nn.Module:
    """As an adapter changes a layer."""
    layer = attention()
    layer.toqk = Adapter(layer.toqk)
    return Network(layer)


class Adapter(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 1.0


def assigned() -> nn.Module:
    layer = attention()
    layer.forward = lambda x: x
    return Network(layer)


def of_two_types() -> nn.Module:
    layer = attention()
    layer.tov.half()
    return Network(layer)


VECTORS = torch.ones(2, 16, SIZE)
REFUSED: dict[str, tuple[Any, Any, str]] = {
    "training": (
        lambda: Network(attention(dropout=0.1)),
        VECTORS,
        r"module encoder\.blocks\.0\.lsh_attn\.dropout \(Dropout\): got training mode with dropout 0\.1",
    ),
    "functional dropout": (
        lambda: nn.Sequential(Network(attention()), nn.Dropout(0.5)),
        VECTORS,
        r"module 1 \(Dropout\): got training mode \(dropout\)",
    ),
    "data": (
        lambda: OnData(attention()).eval(),
        VECTORS,
        r"module itself \(OnData\): got a branch on data in line \d+ of test_module",
    ),
    "length": (
        lambda: nn.Sequential(OnLength(attention())).eval(),
        torch.ones(2, 11, SIZE),
        r"module 0 \(OnLength\): got a branch on a size, Ne\(Mod\(sequence, 8\), 0\), in line \d+ of test_",
    ),
    "hook": (
        hooked,
        VECTORS,
        r"module encoder\.blocks\.0\.tov \(Linear\): got a forward hook",
    ),
    "subclass": (
        lambda: Network(Changed(SIZE, heads=2, bucket_size=4)),
        VECTORS,
        r"module encoder\.blocks\.0 \(Changed\): got the subclass Changed that overrides forward",
    ),
    "subclass's method": (
        lambda: Network(Rehashed(config_t())),
        VECTORS,
        r"encoder\.blocks\.0 \(Rehashed\): got the subclass Rehashed that overrides _hash_vectors",
    ),
    "instance": (
        assigned,
        VECTORS,
        r"encoder\.blocks\.0 \(LSHSelfAttention\): got an instance that overrides forward",
    ),
    "meta": (on_meta, VECTORS, r"got encoder\.blocks\.0\.toqk\.weight on the device meta"),
    "adapter": (adapted, VECTORS, r"module encoder\.blocks\.0\.toqk \(Adapter\): got a Adapter of tests"),
    "types": (of_two_types, VECTORS, r"encoder\.blocks\.0 .*: got parameters of float16, float32"),
    "keyword": (without_causal_axes, VECTORS, r"encoder\.blocks\.0 .*: got attend_across_buckets false"),
    "random": (lambda: Noisy(attention()).eval(), VECTORS, r"itself \(Noisy\): got random numbers \(randn"),
    "argument": (
        lambda: nn.Sequential(Inner(attention())).eval(),
        VECTORS,
        r"module 0\.layer \(LSHSelfAttention\): got keys in a call",
    ),
    "hidden states": (
        lambda: Hidden().eval(),
        torch.ones(2, 16, dtype=torch.int64),
        r"module reformer \(ReformerModel\): got output_hidden_states in a call",
    ),
    "buckets": (
        lambda: Buckets().eval(),
        VECTORS,
        r"buckets of module layer \(LSHSelfAttention\): got a use of it",
    ),
    "uncalled": (
        lambda: Uncalled(attention()).eval(),
        VECTORS,
        r"encoder\.blocks\.0 .*: got no call of it in a run on `example_inputs`",
    ),
    "no layer": (lambda: nn.Linear(2, 2), VECTORS, r"module itself \(Linear\): got no layer with a Reformer"),
    "wrong example": (
        lambda: Network(attention()).eval(),
        torch.ones(2, 16, SIZE + 1),
        r"example_inputs: got 'RuntimeError.* from module encoder\.blocks\.0\.toqk \(Linear\)",
    ),
    "no max_length": (
        lambda: Network(attention()).eval(),
        VECTORS,
        r"max_length: got none for module encoder\.blocks\.0",
    ),
    "arguments": (
        lambda: Network(attention()),
        (VECTORS, VECTORS),
        r"example_inputs: got too many positional",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_names_the_module(tmp_path: Path, name: str) -> None:
    make, example, expected = REFUSED[name]
    module = make()
    state = torch.get_rng_state()
    options: dict[str, Any] = {} if name == "no max_length" else {"max_length": 64}
    with pytest.raises(ReformerExportError, match=expected) as raised:
        reformer_export.export_module(module, example, tmp_path / "out", **options)
    assert "\n" not in str(raised.value)
    assert str(raised.value).count("; ") >= 1
    assert "canonical" not in str(raised.value)
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(tmp_path.iterdir())
