"""The artifact on disk: OUT/model.onnx, OUT/manifest.json and what stands beside them.

Reading checks the manifest's version and fields, that no path leaves the folder, and the SHA-256 of every
file it names. `folder.py` makes the folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from reformer_export.artifact.decoding import DecodeRecord, describe_decoding
from reformer_export.artifact.files import (
    JsonFile,
    json_text,
    reading,
    resolve_inside,
    sha256_of_file,
    write_atomically,
)
from reformer_export.artifact.signature import GraphTensor, Signature, signature_of
from reformer_export.artifact.spec_values import spec_from_values, values_from_spec
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.custom_spec import CustomSpec
from reformer_export.errors import ArtifactError, InputError, SpecError
from reformer_export.low_precision import LowPrecision, WeightsType
from reformer_export.spec import DType, LSHAttentionSpec, ModelSpec

MANIFEST_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MODEL_NAME: Final = "model.onnx"
EXTERNAL_DATA_NAME: Final = "model.onnx.data"
ENGINES_NAME: Final = "engines"
MAX_MANIFEST_BYTES: Final = 64 * 2**20

TABLE_COUNTS: Final = (1, 2, 4, 8)
"""Rounds that the paper's Table 2 evaluates (Kitaev et al. 2020)."""


@dataclass(frozen=True)
class RuntimeNumHashes:
    """A model whose runs choose their rounds of hashing: the first `num_hashes` of `max_hashes`."""

    max_hashes: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Rounds worth comparing: the paper's below `max_hashes`, and that."""
        return (*(count for count in TABLE_COUNTS if count < self.max_hashes), self.max_hashes)

    def to_dict(self) -> dict[str, Any]:
        note = (
            f"Only {NUM_HASHES_INPUT} = {self.max_hashes} equals transformers' draw with the recorded seeds; "
            "for another count transformers draws other rotations, where this model uses the first of its "
            f"{self.max_hashes} rounds."
        )
        return {"input": NUM_HASHES_INPUT, "max_hashes": self.max_hashes, "note": note}


TOKENIZER_JSON_NAME: Final = "tokenizer.json"
TokenizerKind = Literal["tokenizer.json", "bytes", "none"]


@dataclass(frozen=True)
class TokenizerRecord:
    """How text becomes ids: by the artifact's tokenizer.json, as bytes (id = byte + 2), or not at all.

    `detail` says whose tokenizer it is, or why.
    """

    kind: TokenizerKind
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    `files` maps each file's name to its SHA-256 (hex); `rotations_sha256` maps an LSH layer's index to the
    SHA-256 of its rotations (float32, C order); `source` says where the checkpoint came from;
    `versions` names the tools and libraries that made it; `parity` is the verify summary, if one ran;
    `runtime_num_hashes` is None for a model with a fixed number of hashes; `tokenizer` is None where an older
    version wrote the manifest; `decode` is None without decode.onnx;
    `low_precision` is None where all weights are of `dtype`, and under the keys `weights` and `kept`.
    """

    spec: ModelSpec
    dtype: DType
    opset: int
    operators: dict[str, int]
    source: dict[str, Any]
    rotations_sha256: dict[str, str]
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Any] | None = None
    runtime_num_hashes: RuntimeNumHashes | None = None
    tokenizer: TokenizerRecord | None = None
    decode: DecodeRecord | None = None
    low_precision: LowPrecision | None = None

    @property
    def precision(self) -> str:
        """The types of its weights, for people."""
        return self.dtype if self.low_precision is None else f"{self.dtype}, {self.low_precision}"

    @property
    def rounding(self) -> str:
        """For people, behind "eager" or "the original": what it was compared with has the same rounding."""
        return "" if self.low_precision is None else f" with the same {self.low_precision.weights} rounding"

    @property
    def loss(self) -> str | None:
        """What it loses against the original, for people, where a text was measured at export."""
        cost = (self.parity or {}).get("cost")
        rows = cost.get("artifacts") if isinstance(cost, dict) else None
        loss = rows[0].get("loss") if isinstance(rows, list) and rows and isinstance(rows[0], dict) else None
        if not isinstance(cost, dict) or not isinstance(loss, float):
            return None
        return f"{loss:.4f} bits per character on {cost.get('text')}"

    @functools.cached_property
    def signature(self) -> Signature:
        """What goes into model.onnx and comes out of it; floats are `dtype`."""
        return signature_of(self.spec, self.dtype)

    @property
    def inputs(self) -> tuple[GraphTensor, ...]:
        """Of model.onnx, by name; `num_hashes`, which has a default, is none of them."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[GraphTensor, ...]:
        """Of model.onnx, by name."""
        return self.signature.outputs

    @property
    def is_custom(self) -> bool:
        """Whether the model is a user's own module, of which nothing is known but its inputs and outputs."""
        return isinstance(self.spec, CustomSpec)

    def describe_sizes(self) -> str:
        """What sizes the inputs may have, for people."""
        if self.is_custom:
            return self.signature.describe_limits()
        return f"{self.spec.describe_lengths()} tokens"

    def to_dict(self) -> dict[str, Any]:
        return {
            "manifest_version": MANIFEST_VERSION,
            "spec": values_from_spec(self.spec),
            "max_length": self.spec.max_length,
            "dtype": self.dtype,
            "weights": None if self.low_precision is None else self.low_precision.weights,
            "kept": None if self.low_precision is None else list(self.low_precision.kept),
            "inputs": [each.to_dict() for each in self.inputs],
            "outputs": [each.to_dict() for each in self.outputs],
            "opset": self.opset,
            "operators": self.operators,
            "dial": None if self.runtime_num_hashes is None else self.runtime_num_hashes.to_dict(),
            "tokenizer": None if self.tokenizer is None else dataclasses.asdict(self.tokenizer),
            "decode": None if self.decode is None else self.decode.to_dict(),
            "source": self.source,
            "rotations_sha256": self.rotations_sha256,
            "versions": self.versions,
            "files": self.files,
            "parity": self.parity,
        }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, whole or not at all."""
    write_atomically(folder / MANIFEST_NAME, json_text(manifest.to_dict()) + "\n")


@dataclass(frozen=True)
class _NumHashesChoice:
    """What a manifest says of `RuntimeNumHashes`, under the key "dial"."""

    input: Literal["num_hashes"]
    max_hashes: int


@dataclass(frozen=True)
class _ManifestFields:
    """What is read of manifest.json, `spec` aside."""

    dtype: DType
    opset: int
    operators: dict[str, int]
    source: dict[str, Any]
    rotations_sha256: dict[str, str]
    versions: dict[str, str]
    files: dict[str, str]
    parity: dict[str, Any] | None
    spec: dict[str, Any]
    dial: _NumHashesChoice | None
    tokenizer: TokenizerRecord | None
    decode: DecodeRecord | None
    weights: WeightsType | None
    kept: tuple[str, ...] | None


def _no_manifest(path: Path) -> ArtifactError:
    folder, fix = path.parent, "export the checkpoint first"
    got = f"{folder} without {MANIFEST_NAME}"
    if folder.is_file():
        got, fix = f"the file {folder}", "give the folder that it is in"
    elif not folder.exists():
        got, fix = f"{folder}, which does not exist", f"check the spelling, or {fix}"
    return ArtifactError("artifact", got, "a folder written by `reformer-export onnx`", fix)


_FILE: Final = JsonFile("a manifest", "export the checkpoint again", MAX_MANIFEST_BYTES, missing=_no_manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.json; ArtifactError when it is missing, broken or of another kind."""
    path = folder / MANIFEST_NAME
    found = _FILE.read_version(path, "manifest_version", MANIFEST_VERSION)
    # Older versions do not mention them.
    found = dict.fromkeys(("dial", "tokenizer", "decode", "weights", "kept")) | found
    fields = _FILE.convert(path, found, _ManifestFields)
    try:
        spec = spec_from_values(fields.spec)
    except SpecError as error:
        raise _FILE.refuse(path, f"a spec that is refused: {error}") from error
    values = vars(fields) | {"spec": spec}
    choice = values.pop("dial")
    rounds = {layer.num_hashes for layer in spec.layers if isinstance(layer, LSHAttentionSpec)}
    if choice is not None and rounds != {choice.max_hashes}:
        raise _FILE.refuse(path, f"a missing or wrong field (dial: {choice.max_hashes} hashes of {rounds})")
    if fields.decode not in (None, describe_decoding(spec, fields.dtype)):
        raise _FILE.refuse(path, f"a missing or wrong field (decode: {fields.decode})")
    if fields.decode is not None and fields.decode.file not in fields.files:
        raise _FILE.refuse(path, f"a missing or wrong field (files: no {fields.decode.file})")
    weights, kept = values.pop("weights"), values.pop("kept")
    try:
        low_precision = None if weights is None else LowPrecision(weights, kept or ())
    except InputError as error:
        raise _FILE.refuse(path, f"a missing or wrong field (kept: {error.got})") from error
    return Manifest(
        **values,
        runtime_num_hashes=choice and RuntimeNumHashes(choice.max_hashes),
        low_precision=low_precision,
    )


def check_files(
    folder: Path, manifest: Manifest, names: Collection[str] | None = None, but: Collection[str] = ()
) -> None:
    """Compare every file that the manifest names, or of these the `names`, with its SHA-256, none of `but`;
    ArtifactError names the first that differs."""
    if MODEL_NAME not in manifest.files:
        raise ArtifactError(folder / MANIFEST_NAME, f"no {MODEL_NAME}", "it", "export again")
    for name, expected in manifest.files.items():
        if name not in but and (names is None or name in names):
            resolve_inside(folder, name)
            _check_file(folder / name, expected)


@contextmanager
def checking_beside(folder: Path, manifest: Manifest, name: str) -> Iterator[None]:
    """Compare the file `name`, if the manifest has it, with its SHA-256 in a thread while the block runs.

    ArtifactError at the block's end when it differs, however the block ended: what that made is not to be
    used before.
    """
    expected = manifest.files.get(name)
    if expected is None:
        yield
        return
    resolve_inside(folder, name)
    with ThreadPoolExecutor(1, "reformer-sha256") as pool:
        check = pool.submit(_check_file, folder / name, expected)
        try:
            yield
        finally:
            check.result()


def _check_file(path: Path, expected: str) -> None:
    with reading(path):
        got = sha256_of_file(path) if path.is_file() else None
    if got is None:
        raise ArtifactError(path, "no such file", "it beside the manifest", "export again")
    if got != expected:
        raise ArtifactError(
            path,
            f"SHA-256 {got[:16]}...",
            f"{expected[:16]}... as the manifest says",
            "the file changed after the export, export the checkpoint again",
        )
