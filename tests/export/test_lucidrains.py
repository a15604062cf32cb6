"""Files of reformer-pytorch's models in ONNX Runtime, with the native library and without, against the
package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import reformer_export
from reformer_export.artifact.manifest import Manifest
from reformer_export.checkpoints import Checkpoint, LoadOptions, load_lucidrains
from reformer_export.errors import InputError
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.runtimes import RuntimeOptions
from tests.lucidrains import SMALL, save_model

pytestmark = pytest.mark.usefixtures("translated_as_captured")

ATOL = 1e-4

CONFIGURATIONS: dict[str, tuple[dict[str, Any], str | None]] = {
    "odd threshold, memory": (
        {"full_attn_thres": 21, "num_mem_kv": 3, "emb_dim": 16, "ff_glu": True},
        "Autopadder",
    ),
    "as the enwik8 example": (
        {"n_local_attn_heads": 2, "weight_tie": True, "full_attn_thres": 16},
        "TrainingWrapper",
    ),
    "bidirectional, local": (
        {"n_local_attn_heads": 1, "causal": False, "use_scale_norm": True},
        "Autopadder",
    ),
    "full attention": ({"use_full_attn": True, "absolute_position_emb": True}, "Autopadder"),
    "plain, fixed": (
        {"fixed_position_emb": True, "weight_tie_embedding": True, "random_rotations_per_head": True},
        None,
    ),
    "embeddings": (
        {
            "return_embeddings": True,
            "n_hashes": 1,
            "num_mem_kv": 5,
            "causal": False,
            "axial_position_emb": True,
            "use_rezero": True,
            "one_value_head": True,
        },
        "Autopadder",
    ),
}


def export(folder: Path, keywords: dict[str, Any], wrapper: str | None) -> tuple[Checkpoint, Manifest, Path]:
    """The checkpoint, the manifest and the folder of an artifact that nobody compared yet."""
    file, config = save_model(folder, keywords, wrapper)
    checkpoint = load_lucidrains(str(file), config, LoadOptions())
    out = folder / "out"
    out.mkdir()
    return checkpoint, write_artifact(checkpoint, out, ExportOptions()), out


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_file_equals_eager(tmp_path: Path, name: str) -> None:
    more, wrapper = CONFIGURATIONS[name]
    checkpoint, manifest, out = export(tmp_path, SMALL | more, wrapper)
    from reformer_export.reference.lucidrains import EagerLucidrains

    spec = checkpoint.spec
    eager = EagerLucidrains(tmp_path / "model.pt", manifest)
    natives: list[NativeMode] = ["off", *(["auto"] if find_native_library("auto") else [])]
    takes = [length for length in range(1, spec.max_length + 1) if spec.takes_length(length)]
    rng = np.random.default_rng(1)
    for native in natives:
        with reformer_export.load(out, provider="cpu", native=native) as runtime:
            for length in sorted({takes[0], *takes[:: max(len(takes) // 9, 1)], takes[-1]}):
                ids = rng.integers(0, 50, (3, length))
                mask = np.arange(length) < np.array([[length], [max(length // 3, 1)], [max(length - 1, 1)]])
                expected = eager.run(ids, mask.astype(np.int64)).outputs[spec.output_names[0]]
                got = runtime.run(ids, mask.astype(np.int64))[spec.output_names[0]]
                assert got.shape == expected.shape
                assert np.abs(got - expected)[mask].max() < ATOL, f"native {native}, length {length}"


@pytest.mark.slow
def test_a_file_with_memories_equals_eager(tmp_path: Path) -> None:
    """By the rule of `verify`: of memories that score alike to rounding any may be chosen."""
    from reformer_export.parity.cases import Case
    from reformer_export.parity.session import open_session
    from reformer_export.parity.sweep import sweep

    memories = {"pkm_layers": [1, 3], "pkm_num_keys": 33, "weight_tie": True, "depth": 3}
    *_, out = export(tmp_path, SMALL | memories | {"use_scale_norm": True}, "TrainingWrapper")
    natives: list[NativeMode] = ["off", *(["auto"] if find_native_library("auto") else [])]
    for native in natives:
        options = RuntimeOptions(provider="cpu", native=native)
        with open_session(out, tmp_path / "model.pt", options) as session:
            result = sweep(session, [Case(length, 3, masked=length > 1) for length in (1, 7, 8, 37, 64)])
        assert result.passed, result.verdict()
        assert all(case.pinned_error < ATOL for case in result.cases)


@pytest.mark.slow
def test_tied_layers_are_stored_once_and_lengths_between_multiples_are_refused(tmp_path: Path) -> None:
    sizes = {}
    for tied in (False, True):
        keywords = SMALL | {"depth": 4, "weight_tie": tied, "n_hashes": 1}
        *_, out = export(tmp_path / str(tied), keywords, None)
        graph = onnx.load(str(out / "model.onnx")).graph
        sizes[tied] = sum(np.prod(tensor.dims) for tensor in graph.initializer)
    weights = 4 * 32 * 32 + 2 * 4 * 32 * 32  # of one layer, but for biases
    assert sizes[False] - sizes[True] >= 3 * (weights - 32 * 32)
    with reformer_export.load(out, provider="cpu") as runtime:
        assert runtime.run(np.ones((1, 16), np.int64))["logits"].shape == (1, 16, 50)
        with pytest.raises(
            InputError, match=r"got 15 tokens, expected multiples of 2 x bucket_size = 8 up to 64"
        ):
            runtime.run(np.ones((1, 15), np.int64))
