"""A model whose own eager is unstable: the verdict knows it, after a short and after a long comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from reformer_export.artifact.manifest import read_manifest
from reformer_export.parity.cases import Case
from reformer_export.parity.noise import NOISE_UNITS
from reformer_export.parity.session import open_session
from reformer_export.parity.sweep import sweep
from reformer_export.reference.eager import open_eager
from reformer_export.reference.runs import noisy_weights
from reformer_export.workflows.export import export_checkpoint
from reformer_export.workflows.verify import verify_artifact
from tests.hf_models import config_t, save_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of random weights with standard deviation 1.0."""
    config = config_t(
        attn_layers=["local", "lsh"] * 3,
        num_hidden_layers=6,
        hidden_size=64,
        attention_head_size=16,
        num_attention_heads=4,
        feed_forward_size=128,
        axial_pos_embds_dim=[32, 32],
        initializer_range=1.0,
        axial_norm_std=1.0,
    )
    return save_model(tmp_path_factory.mktemp("unstable"), config, transformers.ReformerModel)


@pytest.fixture(scope="module")
def out(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its artifact, which the short comparison lets pass."""
    folder = tmp_path_factory.mktemp("artifact") / "out"
    export_checkpoint(checkpoint, folder)
    return folder


def test_the_long_comparison_agrees_with_the_short_one(out: Path) -> None:
    (report,) = verify_artifact(out, lengths=(64,), batch_sizes=(1,)).runtimes
    case = report.sweep.cases[0]
    assert case.eager_noise is not None
    assert 5e-5 < case.pinned_error <= case.tolerance <= NOISE_UNITS * case.eager_noise
    assert report.sweep.passed
    assert "eager itself moves by" in report.sweep.verdict()
    assert report.sweep.summary()["eager_noise"] == report.sweep.eager_noise


def test_a_wrong_weight_still_fails(checkpoint: Path, tmp_path: Path) -> None:
    """One weight matrix of the artifact is a percent too large."""
    model = transformers.ReformerModel.from_pretrained(checkpoint)
    with torch.no_grad():
        model.encoder.layers[3].feed_forward.dense.dense.weight *= 1.01
    model.save_pretrained(tmp_path / "changed")
    export_checkpoint(tmp_path / "changed", tmp_path / "out", verify=False)
    with open_session(tmp_path / "out", checkpoint) as session:
        (case,) = sweep(session, [Case(64, 1, masked=False)]).cases
    assert not case.passed
    assert case.unexplained or (case.eager_noise and case.pinned_error > NOISE_UNITS * case.eager_noise)


def test_the_noise_leaves_the_weights_as_they_were(checkpoint: Path, out: Path) -> None:
    eager = open_eager(checkpoint, read_manifest(out))
    before = [weight.clone() for weight in eager.model.parameters()]
    with noisy_weights(eager.model, 0):
        during = [weight.clone() for weight in eager.model.parameters()]
    for weight, noisy, old in zip(eager.model.parameters(), during, before, strict=True):
        assert torch.equal(weight, old)
        assert (noisy != old).all()
        assert torch.equal(torch.nextafter(noisy, old), old)
