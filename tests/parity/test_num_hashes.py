"""Comparing fewer rounds of hashing than an artifact has: the cases, and eager on the first rounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers

from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import RuntimeNumHashes, read_manifest, write_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.parity.cases import Case, add_num_hashes_cases, default_cases
from reformer_export.reference.eager import EagerReformer
from tests.configurations import random_inputs
from tests.hf_models import config_t, save_model
from tests.modeling.test_reformer import HEADS
from tests.parity.sessions import sweep_artifact

MAX_HASHES = 4


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of 1 to 4 hashes, two LSH layers; its checkpoint is `ReformerModel` beside it."""
    root = tmp_path_factory.mktemp("exported")
    config = config_t(attn_layers=["lsh", "local", "lsh"], hash_seed=None, initializer_range=0.5)
    folder = save_model(root, config, transformers.ReformerModel)
    (root / "out").mkdir()
    checkpoint = load_huggingface(str(folder), LoadOptions(num_hashes=MAX_HASHES))
    write_artifact(checkpoint, root / "out", ExportOptions(runtime_num_hashes=True))
    return root / "out"


@pytest.fixture(scope="module")
def eager(out: Path) -> EagerReformer:
    return EagerReformer(out.parent / "ReformerModel", read_manifest(out).spec)


def test_fewer_rounds_follow_the_cases_with_all(out: Path) -> None:
    manifest = read_manifest(out)
    cases = default_cases(manifest.spec)
    added = add_num_hashes_cases(manifest, cases)
    assert added[: len(cases)] == cases
    assert [(c.num_hashes, c.masked) for c in added[len(cases) :]] == [
        (1, False), (1, True), (2, False), (2, True),
    ]  # fmt: skip
    assert all(case.length > 8 for case in added[len(cases) :])  # one chunk is not hashed
    assert add_num_hashes_cases(manifest, [Case(8, 1, masked=False)]) == [Case(8, 1, masked=False)]
    assert add_num_hashes_cases(dataclasses.replace(manifest, runtime_num_hashes=None), cases) == cases
    assert (
        add_num_hashes_cases(dataclasses.replace(manifest, runtime_num_hashes=RuntimeNumHashes(1)), cases)
        == cases
    )


def test_a_case_in_words() -> None:
    texts = [str(Case(9, 2, masked=True, num_hashes=count)) for count in (None, 1, 2)]
    assert texts == [f"batch 2, length 9, masked{rounds}" for rounds in ("", ", 1 hash", ", 2 hashes")]


def test_all_rounds_are_eager_s_own_draw(eager: EagerReformer) -> None:
    ids, mask = random_inputs(np.random.default_rng(0), 50, 27, 2, masked=True)
    own, given = eager.run(ids, mask), eager.run(ids, mask, MAX_HASHES)
    for index in own.buckets:
        assert np.array_equal(own.buckets[index], given.buckets[index])
    assert np.array_equal(own.outputs["last_hidden_state"], given.outputs["last_hidden_state"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_rounds_hash_as_the_first_of_all(eager: EagerReformer, count: int) -> None:
    ids, mask = random_inputs(np.random.default_rng(0), 50, 27, 2, masked=True)
    everything, few = eager.run(ids, mask), eager.run(ids, mask, count)
    first = min(everything.buckets)  # later layers see what the rounds before have changed
    assert np.array_equal(few.buckets[first], everything.buckets[first][:, :, :count])
    assert few.buckets[first].shape == (2, 2, count, 27)


def test_eager_alone_draws_others_for_fewer(eager: EagerReformer) -> None:
    """What the manifest says, and why eager's draw has to be answered."""
    ids = torch.arange(24)[None] % 50
    with torch.no_grad(), torch.random.fork_rng():
        alone = eager.model(ids, num_hashes=2).last_hidden_state
    first = eager.run(ids.numpy(), np.ones((1, 24), np.int64), 2).outputs["last_hidden_state"]
    assert np.abs(alone.numpy() - first).max() > 1e-2


def test_the_caller_s_random_state_is_left_alone(eager: EagerReformer) -> None:
    ids, mask = random_inputs(np.random.default_rng(0), 50, 24, 1, masked=False)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    eager.run(ids, mask, 2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("task", HEADS)
def test_every_head(tmp_path: Path, task: str) -> None:
    config = config_t(is_decoder=task == "text-generation", num_labels=2 if "question" in task else 5)
    folder = save_model(tmp_path, config, HEADS[task])
    (tmp_path / "out").mkdir()
    checkpoint = load_huggingface(str(folder), LoadOptions(num_hashes=3))
    write_artifact(checkpoint, tmp_path / "out", ExportOptions(runtime_num_hashes=True))
    cases = [Case(27, 2, masked=True, num_hashes=count) for count in (1, 2, 3)]
    result = sweep_artifact(tmp_path / "out", folder, cases)
    assert result.passed, result.verdict()
    assert [case.hashed for case in result.cases] == sorted({case.hashed for case in result.cases})


def test_rounds_in_another_order_are_found(out: Path, tmp_path: Path) -> None:
    """Planted: the last round stands first."""
    model = onnx.load(str(out / "model.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("rotations"):
            turned = onnx.numpy_helper.to_array(tensor)[:, :, ::-1].copy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned, tensor.name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    manifest = read_manifest(out)
    files = {"model.onnx": sha256_of_file(tmp_path / "model.onnx")}
    write_manifest(tmp_path, dataclasses.replace(manifest, files=files))
    result = sweep_artifact(tmp_path, out.parent / "ReformerModel", [Case(40, 2, masked=False, num_hashes=1)])
    assert not result.passed
    assert result.cases[0].unexplained > 0
