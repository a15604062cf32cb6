"""A small language model with decode.onnx, and its checkpoint."""

from __future__ import annotations

from pathlib import Path

import transformers

from reformer_export.measure.contenders import Setup
from reformer_export.measure.decoders import ARTIFACTS, EAGERS, DecodeSetup
from reformer_export.runtimes import RuntimeOptions
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model


def export_decoder(folder: Path) -> tuple[Path, Path]:
    """(checkpoint, artifact) of configuration T, which takes 64 tokens."""
    checkpoint = save_model(folder, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    outcome = run_program("onnx", checkpoint, folder / "out", "--no-verify", "--decode")
    assert outcome.status == 0, outcome.stderr
    return checkpoint, folder / "out"


def all_setups(checkpoint: Path, out: Path) -> list[DecodeSetup]:
    """Every contender, the artifact first."""
    options = RuntimeOptions(provider="cpu", threads=1)
    artifact = Setup("artifact", str(out), options)
    eager = Setup("eager", str(out), options, checkpoint=str(checkpoint))
    return [
        *(DecodeSetup(name, artifact) for name in ARTIFACTS),
        *(DecodeSetup(name, eager) for name in EAGERS),
    ]
