"""What the tests of builds share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from reformer_export.artifact.decoding import DECODE_NAME, describe_decoding
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest, write_manifest
from reformer_export.engine import EngineOptions
from tests.runtimes.artifacts import write_artifact

RTX = EngineOptions("tensorrt-rtx", compute_capabilities=("8.0", "12.0"))


def write_decode_artifact(folder: Path, **options: Any) -> Path:
    """`write_artifact`'s with a decode.onnx, which no runtime is to look into."""
    model = (write_artifact(folder.with_name(f"{folder.name}-plain"), **options) / MODEL_NAME).read_bytes()
    out = write_artifact(folder, files={DECODE_NAME: model + b"\x12\x00"}, **options)  # no producer_name
    manifest = read_manifest(out)
    decode = describe_decoding(manifest.spec, manifest.dtype)
    write_manifest(out, dataclasses.replace(manifest, decode=decode))
    return out


def engine_files(out: Path) -> set[str]:
    """The names of what lies in OUT/engines."""
    return {path.name for path in (out / "engines").iterdir()}
