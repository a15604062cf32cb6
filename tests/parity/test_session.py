"""What a comparison opens, it opens once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from reformer_export.artifact import manifest as manifests
from reformer_export.reference.eager import EagerReformer
from tests.cli.program import run_program
from tests.parity.planted import CASE, LSH


@pytest.mark.parametrize("times", [1, 2])
def test_eager_is_built_once_and_every_file_is_hashed_once(artifacts, tmp_path, monkeypatch, times) -> None:
    encoder = artifacts("encoder")
    hashed: Counter[str] = Counter()
    built = []
    sha256_of_file, init = manifests.sha256_of_file, EagerReformer.__init__
    monkeypatch.setattr(
        manifests, "sha256_of_file", lambda path: (hashed.update([path.name]), sha256_of_file(path))[1]
    )
    monkeypatch.setattr(EagerReformer, "__init__", lambda *args: (built.append(args), init(*args))[1])
    options = ["--report", tmp_path / "report.html"] if times == 1 else []
    outcome = run_program(
        *("verify", encoder.folder, "--checkpoint", encoder.checkpoint, "--lengths", "20"),
        *("--batch-sizes", "2", "--bisect", tmp_path / "node", *["--runtime", "onnxruntime"] * times),
        *options,
    )
    assert outcome.status == 0, outcome.stderr
    assert "No node differs" in outcome.stdout
    assert len(built) == 1
    assert hashed == dict.fromkeys(encoder.manifest.files, 1)
    assert "model.onnx" in hashed


def test_given_buckets_reach_the_attention_and_the_graphs_own_stand_beside(artifacts, tmp_path) -> None:
    with artifacts("encoder").open(None, tmp_path) as session:
        assert session.reads_buckets
        ids, mask = session.draw(CASE)
        truth = session.eager.run(ids, mask)
        graph, inputs = session.expose_hashing(), session.graph_inputs(ids, mask)
        turned = truth.buckets[1][::-1]
        got, other = graph.run(inputs, truth.values), graph.run(inputs, {f"{LSH}.buckets": turned})
        free = session.runtime.run(ids, mask)["last_hidden_state"]
    assert not np.array_equal(turned, truth.buckets[1])
    assert np.array_equal(got[f"{LSH}.buckets"], truth.buckets[1])
    assert np.array_equal(other[f"{LSH}.buckets"], truth.buckets[1])
    assert got[f"{LSH}.query_key"].shape == (2, 20, 16)
    np.testing.assert_allclose(got["last_hidden_state"], free, atol=1e-5)
    assert np.abs(other["last_hidden_state"] - free).max() > 1e-3
