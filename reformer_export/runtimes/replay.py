"""Run one node again on the inputs on which it was found wrong: what `verify --bisect` wrote.

The folder: node.onnx, its subgraph alone, whose inputs are eager's values; node.npz, those inputs by name and
the arrays `expected` (eager's result), `got` (the file's) and `judged` (which elements count), of one shape;
node.json, what was found. Needs ONNX Runtime and numpy only; parity/replay.py judges the result.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.files import JsonFile, resolve_inside, sha256_of_file
from reformer_export.errors import ArtifactError, OutputError, RuntimeUnavailableError
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.runtimes.ort_binding import BoundSession
from reformer_export.runtimes.ort_session import CUDA, Placement, import_onnxruntime, open_session

RECORD_NAME: Final = "node.json"
GRAPH_NAME: Final = "node.onnx"
WEIGHTS_NAME: Final = "node.onnx.data"
ARRAYS_NAME: Final = "node.npz"
SUBGRAPH_FILES: Final = frozenset({RECORD_NAME, GRAPH_NAME, WEIGHTS_NAME, ARRAYS_NAME})
RESULTS: Final = ("expected", "got", "judged")

RECORD_FILE: Final = JsonFile(
    "what `reformer-export verify --bisect` writes", "name a folder that it wrote, or run it again"
)


@dataclass(frozen=True)
class NodeRecord:
    """What was found of a node.

    `buckets`: whether its result are hash buckets, of which those that differ are counted; else numbers,
    whose largest difference counts. `error`, `tolerance`: then, in those units; `explained`: differing
    buckets that rounding explains. `native`, `provider`, `tf32`: what ran it. `files`: SHA-256 (hex) by name.
    """

    node: str
    operator: str
    module: str
    layer: int | None
    buckets: bool
    error: float
    tolerance: float
    explained: int
    native: bool
    provider: str
    files: dict[str, str]
    tf32: bool = False


@dataclass(frozen=True)
class NodeRun:
    """What the node of `record` gave now, `got`, beside what was recorded: eager's result `expected`, the
    file's `then`, and which elements count, `judged`."""

    record: NodeRecord
    got: NDArray[Any]
    expected: NDArray[Any]
    then: NDArray[Any]
    judged: NDArray[np.bool_]


def reason_to_keep(folder: Path) -> str | None:
    """Why a folder must not be replaced by a new one of these; None when it is one, or empty."""
    if folder.is_symlink() or not folder.is_dir():
        return "is no folder"
    present = {path.name for path in folder.iterdir()}
    others = sorted(present - SUBGRAPH_FILES)
    if others:
        return f"also holds {', '.join(others[:3])}"
    return f"has no {RECORD_NAME}" if present and RECORD_NAME not in present else None


def check_subgraph_folder(out: Path) -> None:
    """OutputError unless `out` is free, or an earlier one of these, or empty."""
    problem = reason_to_keep(out) if out.exists() or out.is_symlink() else None
    if problem is not None:
        raise OutputError(
            "bisect",
            f"{out}, which {problem}",
            "a new folder or an earlier one of `bisect`",
            "choose another DIR",
        )


def run_node(
    folder: Path, native: NativeMode | None = None, provider: str | None = None, threads: int | None = None
) -> NodeRun:
    """Run the node in `folder`, which `verify --bisect` wrote, again.

    `native` and `threads` are `RuntimeOptions`', `provider` is ONNX Runtime's name of an execution provider;
    None for what ran it then.

    Raises:
        ArtifactError: a file is missing, broken, or not the one that was written.
        RuntimeUnavailableError: the native library, or the provider, is not here.
    """
    record = read_record(folder)
    for name, digest in {GRAPH_NAME: "", ARRAYS_NAME: "", **record.files}.items():
        path = resolve_inside(folder, name)
        if not path.is_file() or sha256_of_file(path) != digest:
            raise ArtifactError(
                str(path),
                got="another file" if path.is_file() else "none",
                expected=f"the one that {RECORD_NAME} names by its SHA-256",
                fix="run `reformer-export verify --bisect` again",
            )
    provider = provider or record.provider
    if provider not in import_onnxruntime().get_available_providers():
        raise RuntimeUnavailableError(
            "provider",
            got=f"{provider}, which the installed ONNX Runtime does not have",
            expected="one that it has",
            fix='use `provider="cpu"`',
        )
    library = find_native_library(native or ("on" if record.native else "off"))
    placement = Placement(provider, threads, library, record.tf32 and provider == CUDA)
    session = open_session(folder / GRAPH_NAME, placement)
    names = [value.name for value in session.get_inputs()]
    arrays = _read_arrays(folder / ARRAYS_NAME)
    for name in (*names, *RESULTS):
        if name not in arrays:
            raise RECORD_FILE.refuse(folder / ARRAYS_NAME, f"no array {name}")
    try:
        (output,) = session.get_outputs()
        feeds = {name: arrays[name] for name in names}
        (got,) = BoundSession(session, placement).run([output.name], feeds)
    except Exception as error:
        raise RECORD_FILE.refuse(folder / GRAPH_NAME, f"'{error}' from ONNX Runtime") from error
    return NodeRun(record, got, *(arrays[name] for name in RESULTS))


def read_record(folder: Path) -> NodeRecord:
    """What `folder`/node.json says; ArtifactError when it is missing or broken."""
    path = folder / RECORD_NAME
    values = RECORD_FILE.read(path)
    if isinstance(values, dict) and values.get("error", 0) is None:
        values["error"] = math.inf  # which JSON does not know
    return RECORD_FILE.convert(path, values, NodeRecord)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz, stored as they are: a compressed member may unpack to more than memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise RECORD_FILE.refuse(path, "compressed arrays")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, SyntaxError) as error:
        raise RECORD_FILE.refuse(path, f"{type(error).__name__}: {error}") from error
