"""The artifact on disk: OUT/model.onnx, OUT/manifest.json and what stands beside them.

Reading checks the manifest's version and fields, that no path leaves the folder, and the SHA-256 of every
file it names. `folder.py` makes the folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.files import json_text, resolve_inside, sha256_of_file, write_atomically
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import ArtifactError, SpecError
from reformer_export.spec import DTYPES, DType, LSHAttentionSpec, ModelSpec, spec_from_dict

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
        return {
            "input": NUM_HASHES_INPUT,
            "max_hashes": self.max_hashes,
            "note": (
                f"Only {NUM_HASHES_INPUT} = {self.max_hashes} equals transformers' draw with the recorded "
                "seeds; "
                "for another count transformers draws other rotations, where this model uses the first of "
                f"its {self.max_hashes} rounds."
            ),
        }


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    `files` maps each file's name to its SHA-256 (hex); `rotations_sha256` maps an LSH layer's index to the
    SHA-256 of its rotations (float32, C order); `source` says where the checkpoint came from;
    `versions` names the tools and libraries that made it; `parity` is the verify summary, if one ran;
    `runtime_num_hashes` is None for a model with a fixed number of hashes.
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

    def to_dict(self) -> dict[str, Any]:
        return {
            "manifest_version": MANIFEST_VERSION,
            "spec": self.spec.to_dict(),
            "max_length": self.spec.max_length,
            "dtype": self.dtype,
            "opset": self.opset,
            "operators": self.operators,
            "dial": None if self.runtime_num_hashes is None else self.runtime_num_hashes.to_dict(),
            "source": self.source,
            "rotations_sha256": self.rotations_sha256,
            "versions": self.versions,
            "files": self.files,
            "parity": self.parity,
        }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, whole or not at all."""
    write_atomically(folder / MANIFEST_NAME, json_text(manifest.to_dict()) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.json; ArtifactError when it is missing, broken or of another kind."""
    path = folder / MANIFEST_NAME
    values = _read_json(path)
    version = values.get("manifest_version") if isinstance(values, dict) else None
    if version is None:
        raise ArtifactError(
            f"{path}: got JSON that is no manifest, expected an object with a manifest_version; "
            "export the checkpoint again"
        )
    if version != MANIFEST_VERSION:
        raise ArtifactError(
            f"{path}: got manifest version {version!r:.40}, expected {MANIFEST_VERSION}; "
            "export it again, or install the reformer-export that wrote it"
        )
    return _manifest_from_dict(path, values)


def _read_json(path: Path) -> Any:
    try:
        if not path.is_file():
            raise ArtifactError(
                f"artifact: got {path.parent} without {MANIFEST_NAME}, expected a folder written by "
                "`reformer-export onnx`; export the checkpoint first"
            )
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise ArtifactError(
                f"{path}: got {size} bytes, expected at most {MAX_MANIFEST_BYTES}; export it again"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{path}: got '{error.strerror or error}', expected a readable file; check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise ArtifactError(
            f"{path}: got text that is not JSON ({reason}), expected a manifest; export the checkpoint again"
        ) from error


def _manifest_from_dict(path: Path, values: dict[str, Any]) -> Manifest:
    try:
        parity = values["parity"]
        spec = spec_from_dict(values["spec"])
        manifest = Manifest(
            spec=spec,
            dtype=values["dtype"],
            opset=_typed("opset", values["opset"], int),
            operators=_typed_values("operators", values["operators"], int),
            source=_typed_values("source", values["source"], object),
            rotations_sha256=_typed_values("rotations_sha256", values["rotations_sha256"], str),
            versions=_typed_values("versions", values["versions"], str),
            files=_typed_values("files", values["files"], str),
            parity=None if parity is None else _typed_values("parity", parity, object),
            runtime_num_hashes=_runtime_num_hashes(spec, values.get("dial")),
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: got a manifest with a missing or wrong field ({error}), expected the fields of "
            f"version {MANIFEST_VERSION}; export the checkpoint again"
        ) from error
    except SpecError as error:
        raise ArtifactError(f"{path}: got a spec that is refused: {error}") from error
    if manifest.dtype not in DTYPES:
        raise ArtifactError(
            f"{path}: got dtype {manifest.dtype!r}, expected one of {', '.join(DTYPES)}; export it again"
        )
    return manifest


def _runtime_num_hashes(spec: ModelSpec, values: Any) -> RuntimeNumHashes | None:
    """The choice of rounds that a manifest names; those from before there was one do not mention it."""
    if values is None:
        return None
    fields = _typed_values("dial", values, object)
    rounds = {layer.num_hashes for layer in spec.layers if isinstance(layer, LSHAttentionSpec)}
    runtime_num_hashes = RuntimeNumHashes(_typed("dial.max_hashes", fields["max_hashes"], int))
    if fields["input"] != NUM_HASHES_INPUT or rounds != {runtime_num_hashes.max_hashes}:
        raise TypeError(
            f"dial does not fit: input {fields['input']!r:.40}, {runtime_num_hashes.max_hashes} of {rounds}"
        )
    return runtime_num_hashes


def _typed(name: str, value: Any, expected: type) -> Any:
    if not isinstance(value, expected):
        raise TypeError(f"{name} is {type(value).__name__}, not {expected.__name__}")
    return value


def _typed_values(name: str, values: Any, expected: type) -> dict[str, Any]:
    items = _typed(name, values, dict).items()
    return {key: _typed(f"{name}.{key}", value, expected) for key, value in items}


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file the manifest names with its SHA-256; ArtifactError names the first that differs."""
    if MODEL_NAME not in manifest.files:
        raise ArtifactError(f"{folder / MANIFEST_NAME}: got no {MODEL_NAME}, expected it; export again")
    for name, expected in manifest.files.items():
        path = resolve_inside(folder, name)
        try:
            got = sha256_of_file(path) if path.is_file() else None
        except OSError as error:
            raise ArtifactError(
                f"{path}: got '{error.strerror or error}', expected a readable file; check its permissions"
            ) from error
        if got is None:
            raise ArtifactError(f"{path}: got no such file, expected it beside the manifest; export again")
        if got != expected:
            raise ArtifactError(
                f"{path}: got SHA-256 {got[:16]}..., expected {expected[:16]}... as the manifest says; "
                "the file changed after the export, export the checkpoint again"
            )
