"""A module of a user's own with every kind of layer that is replaced, exported once; defects are planted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from reformer_export import export_module
from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.libraries.operators import NativeMode
from reformer_export.parity.module_session import ModuleSession, open_module_session
from reformer_export.runtimes import RuntimeOptions
from tests import lucidrains
from tests.hf_models import config_t
from tests.parity.planted import Plant, write_planted

SIZE = 16


class Forecast(nn.Module):
    """A series beside a text: an attention that is called twice, a bare one, and a whole model."""

    def __init__(self) -> None:
        super().__init__()
        from reformer_pytorch import LSHAttention, LSHSelfAttention

        common: dict[str, Any] = {"bucket_size": 4, "n_hashes": 2}
        self.series = nn.Linear(3, SIZE)
        self.blocks = nn.ModuleDict(
            {"twice": LSHSelfAttention(SIZE, heads=2, n_local_attn_heads=1, num_mem_kv=8, **common)}
        )
        self.norm = nn.LayerNorm(SIZE)
        self.bare = LSHAttention(causal=True, **common)
        self.text = transformers.ReformerModel(config_t(attn_layers=["lsh", "local"], initializer_range=0.3))
        self.head = nn.Sequential(nn.Linear(3 * SIZE, SIZE), nn.GELU(), nn.Linear(SIZE, 2))

    def forward(
        self, series: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """float32 [B, L, 3], int64 [B, L], int64 [B, L]."""
        length = series.shape[1]
        x = nn.functional.pad(self.series(series), (0, 0, 0, -length % 8))
        x = self.norm(x + self.blocks["twice"](x))
        x = x + self.blocks["twice"](x)
        x = x + self.bare(x, x)[0]
        x = x[:, :length]
        text = self.text(input_ids, attention_mask=attention_mask).last_hidden_state
        return {"scores": self.head(torch.cat([x, text], -1)), "pooled": text[:, 0]}


@dataclass(frozen=True)
class UserArtifact:
    """An artifact of a module."""

    folder: Path
    module: nn.Module
    manifest: Manifest

    @contextmanager
    def open(self, plant: Plant | None, scratch: Path, native: NativeMode = "off") -> Iterator[ModuleSession]:
        """A session on a copy in the folder `scratch`, with a defect planted into it."""
        write_planted(self.folder, self.manifest, plant, scratch)
        options = RuntimeOptions(provider="cpu", threads=1, native=native)
        with open_module_session(scratch, self.module, options) as session:
            yield session


def export_forecast(folder: Path) -> UserArtifact:
    """The artifact of a `Forecast` with the random weights of torch seed 0."""
    lucidrains.require_package()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Forecast().eval()
    ids = torch.ones(2, 19, dtype=torch.int64)
    export_module(module, (torch.randn(2, 19, 3), ids, ids), folder, max_length=64)
    return UserArtifact(folder, module, read_manifest(folder))
