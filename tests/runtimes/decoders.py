"""Small artifacts with decode.onnx, and the same graph called by hand: the oracle of the decoding state."""

from __future__ import annotations

import atexit
import math
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import numpy as np
import onnxruntime
import transformers
from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_NAME, cache_tensors
from reformer_export.artifact.manifest import read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import find_native_library
from reformer_export.spec import DType
from tests.hf_models import config_t, save_model

LONGEST: Final = 96
VOCABULARY: Final = 258
"""Ids are bytes, so that text is a prompt too."""

NATIVE_MODES: Final = ("off", "on") if find_native_library("auto") else ("off",)

TOLERANCE: Final = 2e-5
"""Of a batch against each of its rows alone, and of native steps against those of the function bodies."""

_NUMPY: Final[dict[str, Any]] = {"float32": np.float32, "float16": np.float16, "int32": np.int32}


@lru_cache
def decoding_artifact(
    dtype: DType = "float32", max_hashes: int | None = None, positions: tuple[int, int] = (8, 12)
) -> Path:
    """The artifact of a random model with local and LSH layers, chunks of 8 and of 4, and 96 positions, or
    the product of `positions`; `max_hashes` for one whose runs choose."""
    root = Path(mkdtemp(prefix="decoding-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    config = config_t(
        is_decoder=True,
        vocab_size=VOCABULARY,
        attn_layers=["local", "lsh", "local", "lsh"],
        axial_pos_shape=list(positions),
        max_position_embeddings=math.prod(positions),
        lsh_attn_chunk_length=4,
        num_buckets=[2, 4],
        hash_seed=None if max_hashes else 3,
        initializer_range=0.3,
    )
    folder = save_model(root, config, transformers.ReformerModelWithLMHead)
    (root / "out").mkdir()
    options = ExportOptions(dtype=dtype, decode=True, runtime_num_hashes=max_hashes is not None)
    write_artifact(load_huggingface(str(folder), LoadOptions(num_hashes=max_hashes)), root / "out", options)
    return root / "out"


def draw_ids(length: int, seed: int = 0) -> list[int]:
    """Token ids, none of them the padding id 0."""
    ids: list[int] = np.random.default_rng(seed).integers(1, VOCABULARY, length).tolist()
    return ids


@lru_cache
def open_by_hand(folder: Path, native: str) -> Any:
    """A session of an artifact's decode.onnx, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    library = find_native_library("auto" if native == "on" else "off")
    if library is not None:
        options.register_custom_ops_library(str(library.path))
    return onnxruntime.InferenceSession(str(folder / DECODE_NAME), options, ["CPUExecutionProvider"])


class ByHand:
    """One sequence in decode.onnx, on caches that are copied at every call."""

    def __init__(self, folder: Path, native: str = "off") -> None:
        manifest = read_manifest(folder)
        self._session = open_by_hand(folder, native)
        self._tensors = cache_tensors(manifest.spec, manifest.dtype)
        self._dtypes = [_NUMPY[tensor.dtype] for tensor in self._tensors]
        self.ids: list[int] = []
        self._clear()

    def _clear(self) -> None:
        shapes = [tensor.shape_of(1, LONGEST) for tensor in self._tensors]
        self._caches = [np.zeros(*each) for each in zip(shapes, self._dtypes, strict=True)]
        self._held = 0

    def extend(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits [vocab_size] after a prompt, or one more token."""
        feeds: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "lengths": np.array([self._held], np.int32),
            "new_lengths": np.array([len(ids)], np.int32),
        }
        caches = zip(self._tensors, self._caches, strict=True)
        logits, *self._caches = self._session.run(None, feeds | {each.input: value for each, value in caches})
        self._held += len(ids)
        self.ids += ids
        return logits[0, 0].astype(np.float32)

    def refresh(self) -> NDArray[np.float32]:
        """The logits of a whole pass over the tokens so far."""
        ids, self.ids = self.ids, []
        self._clear()
        return self.extend(ids)
