"""What a model gives at masked positions: no answer, and not eager's where eager pads (docs/parity.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import transformers

from reformer_export.artifact.manifest import read_manifest
from reformer_export.reference.eager import open_eager
from reformer_export.runtimes import load
from reformer_export.workflows.export import export_checkpoint
from tests.hf_models import config_t, save_model


def test_masked_positions_differ_where_eager_pads(tmp_path: Path) -> None:
    """Attended ones agree at every length; the chunks are of 8 tokens."""
    config = config_t(initializer_range=1.0, axial_norm_std=1.0)
    checkpoint = save_model(tmp_path, config, transformers.ReformerModel)
    out = tmp_path / "out"
    export_checkpoint(checkpoint, out, verify=False)
    eager = open_eager(checkpoint, read_manifest(out))
    with load(out) as model:
        for length in (20, 24, 27, 32):
            ids, mask = np.arange(length)[None] % 50, np.ones((1, length), np.int64)
            mask[:, length // 3 :] = 0
            difference = np.abs(
                model.run(ids, mask)["last_hidden_state"] - eager.run(ids, mask).outputs["last_hidden_state"]
            )
            assert difference[mask == 1].max() < 1e-4
            assert (difference[mask == 0].max() > 0.1) == (length % 8 != 0)
