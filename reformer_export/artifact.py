"""The artifact on disk: OUT/model.onnx, OUT/manifest.json and what stands beside them.

Reading checks the manifest's version and fields, that no path leaves the folder, and the SHA-256 of every
file it names. `artifact_folder.py` makes the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reformer_export.errors import ArtifactError, OutputError, SpecError
from reformer_export.spec import DTYPES, DType, LSHAttentionSpec, ModelSpec, spec_from_dict

MANIFEST_VERSION: Final = 1
MANIFEST_NAME: Final = "manifest.json"
MODEL_NAME: Final = "model.onnx"
EXTERNAL_DATA_NAME: Final = "model.onnx.data"
ENGINES_NAME: Final = "engines"
MAX_MANIFEST_BYTES: Final = 64 * 2**20
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's numbers for a disk, a quota or a file that is full."""


DIAL_INPUT: Final = "num_hashes"
"""The graph input, int64 [1], that says how many rounds of hashing a run uses; all of them without it."""

TABLE_COUNTS: Final = (1, 2, 4, 8)
"""Rounds that the paper's Table 2 evaluates (Kitaev et al. 2020)."""


@dataclass(frozen=True)
class Dial:
    """A model whose runs choose their rounds of hashing: the first `num_hashes` of `max_hashes`."""

    max_hashes: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Rounds worth comparing: the paper's below `max_hashes`, and that."""
        return (*(count for count in TABLE_COUNTS if count < self.max_hashes), self.max_hashes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "input": DIAL_INPUT,
            "max_hashes": self.max_hashes,
            "note": (
                f"Only {DIAL_INPUT} = {self.max_hashes} equals transformers' draw with the recorded seeds; "
                "for another count transformers draws other rotations, where this model uses the first of "
                f"its {self.max_hashes} rounds."
            ),
        }


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    `files` maps each file's name to its SHA-256 (hex); `rotations_sha256` maps an LSH layer's index to the
    SHA-256 of its rotations (float32, C order); `source` says where the checkpoint came from;
    `versions` names the tools and libraries that made it; `parity` is the verify summary, if one ran; `dial`
    is None for a model with a fixed number of hashes.
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
    dial: Dial | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "manifest_version": MANIFEST_VERSION,
            "spec": self.spec.to_dict(),
            "max_length": self.spec.max_length,
            "dtype": self.dtype,
            "opset": self.opset,
            "operators": self.operators,
            "dial": None if self.dial is None else self.dial.to_dict(),
            "source": self.source,
            "rotations_sha256": self.rotations_sha256,
            "versions": self.versions,
            "files": self.files,
            "parity": self.parity,
        }


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def resolve_inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`; ArtifactError when it would leave the folder (.., absolute, links)."""
    try:
        path = (folder / name).resolve()
        inside = name != "" and path.is_relative_to(folder.resolve())
    except (ValueError, RuntimeError, OSError):  # a null byte, a loop of links, a name that is too long
        inside = False
    if not inside:
        raise ArtifactError(
            f"file name in {folder}: got {name!r}, expected a path inside the artifact; "
            "the artifact was tampered with, export it again"
        )
    return path


def json_text(values: Any) -> str:
    """Indented JSON; NaN and infinity, which JSON does not know, become null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False)


def _finite(values: Any) -> Any:
    if isinstance(values, float) and not math.isfinite(values):
        return None
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    return [_finite(value) for value in values] if isinstance(values, list | tuple) else values


def write_atomically(path: Path, text: str) -> None:
    """Write `path` through a file beside it, so that it is whole or unchanged; OutputError when refused.

    A link is followed; a device or a pipe, which cannot be replaced, is written to.
    """
    target = Path(os.path.realpath(path))
    partial = target.parent / f".{secrets.token_hex(4)}.partial"
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json, whole or not at all."""
    write_atomically(folder / MANIFEST_NAME, json_text(manifest.to_dict()) + "\n")


def output_error(path: Path, error: OSError) -> OutputError:
    """The one line for the system's refusal to write `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "free some space (in TMPDIR too)" if error.errno in NO_ROOM else "choose another place"
    return OutputError(
        f"writing {path}: got '{reason}', expected a writable place with room; {hint} (nothing was changed)"
    )


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
            dial=_dial_from_dict(spec, values.get("dial")),
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


def _dial_from_dict(spec: ModelSpec, values: Any) -> Dial | None:
    """The dial that a manifest names; manifests from before there was one do not mention it."""
    if values is None:
        return None
    fields = _typed_values("dial", values, object)
    rounds = {layer.num_hashes for layer in spec.layers if isinstance(layer, LSHAttentionSpec)}
    dial = Dial(_typed("dial.max_hashes", fields["max_hashes"], int))
    if fields["input"] != DIAL_INPUT or rounds != {dial.max_hashes}:
        raise TypeError(f"dial does not fit: input {fields['input']!r:.40}, {dial.max_hashes} of {rounds}")
    return dial


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
