"""Run one part of a graph again on the inputs on which it was found wrong: what `verify --bisect` wrote.

The folder: node.onnx, the part alone, whose inputs are eager's values; node.npz, those inputs by name and the
arrays `expected` (eager's result), `got` (the file's) and `judged` (which elements count), of one shape;
node.json, what was found. Needs ONNX Runtime and numpy only.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.files import resolve_inside, sha256_of_file
from reformer_export.errors import ArtifactError, OutputError, RuntimeUnavailableError
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.runtimes.ort import Placement, import_onnxruntime, open_session

RECORD_NAME: Final = "node.json"
GRAPH_NAME: Final = "node.onnx"
WEIGHTS_NAME: Final = "node.onnx.data"
ARRAYS_NAME: Final = "node.npz"
SUBGRAPH_FILES: Final = frozenset({RECORD_NAME, GRAPH_NAME, WEIGHTS_NAME, ARRAYS_NAME})
RESULTS: Final = ("expected", "got", "judged")

MAX_RECORD_BYTES: Final = 2**20


@dataclass(frozen=True)
class NodeRecord:
    """What was found of a node.

    `buckets`: whether its result are hash buckets, of which those that differ are counted; else numbers,
    whose largest difference counts. `error`, `tolerance`: then, in those units; `explained`: differing
    buckets that rounding explains. `native`, `provider`: what ran it. `files`: SHA-256 (hex) by name.
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


@dataclass(frozen=True)
class Replay:
    """`record`, and the error `now`; `repeats`: whether every element is the one that the file gave then."""

    record: NodeRecord
    now: float
    repeats: bool

    @property
    def agrees(self) -> bool:
        """Whether the node agrees with eager now."""
        return self.now <= self.record.tolerance


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
            f"--bisect: got {out}, which {problem}, expected a new folder or an earlier one of --bisect; "
            "choose another DIR"
        )


def greatest_difference(got: NDArray[Any], expected: NDArray[Any], judged: NDArray[np.bool_]) -> float:
    """The largest absolute difference where `judged`; infinite for NaN, infinity and another size.

    `expected` and `judged` have one shape, `got` as many elements.
    """
    if got.size != expected.size:
        return float("inf")
    difference = np.abs(got.reshape(expected.shape)[judged].astype(np.float64) - expected[judged])
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))


def replay_node(
    folder: Path, native: NativeMode | None = None, provider: str | None = None, threads: int | None = None
) -> Replay:
    """Run the part in `folder` again.

    Args:
        folder: what `verify --bisect` wrote.
        native: as in `reformer_export.load`; None for what ran it then.
        provider: ONNX Runtime's name of an execution provider; None for that which ran it then.
        threads: as in `reformer_export.load`.

    Raises:
        ArtifactError: a file is missing, broken, or not the one that was written.
        RuntimeUnavailableError: the native library, or the provider, is not here.
    """
    record = read_record(folder)
    for name, digest in record.files.items():
        path = resolve_inside(folder, name)
        if not path.is_file() or sha256_of_file(path) != digest:
            raise ArtifactError(
                f"{path}: got {'another file' if path.is_file() else 'none'}, expected the one that "
                f"{RECORD_NAME} names by its SHA-256; run `reformer-export verify --bisect` again"
            )
    provider = provider or record.provider
    if provider not in import_onnxruntime().get_available_providers():
        raise RuntimeUnavailableError(
            f"provider: got {provider}, which the installed ONNX Runtime does not have, expected one that it "
            "has; use --provider cpu"
        )
    library = find_native_library(native or ("on" if record.native else "off"))
    session = open_session(folder / GRAPH_NAME, Placement(provider, threads, library))
    arrays = _read_arrays(folder / ARRAYS_NAME)
    got = _run(folder, session, arrays)
    return _compare(record, got, arrays)


def _run(folder: Path, session: Any, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    names = [value.name for value in session.get_inputs()]
    missing = [name for name in (*names, *RESULTS) if name not in arrays]
    if missing:
        raise _broken(folder / ARRAYS_NAME, f"no array {missing[0]}")
    try:
        (got,) = session.run(None, {name: arrays[name] for name in names})
    except Exception as error:
        raise ArtifactError(
            f"{folder / GRAPH_NAME}: ONNX Runtime failed on its recorded inputs: got '{error}', expected a "
            "result; run `reformer-export verify --bisect` again"
        ) from error
    result: NDArray[Any] = got
    return result


def _compare(record: NodeRecord, got: NDArray[Any], arrays: dict[str, NDArray[Any]]) -> Replay:
    expected, then, judged = (arrays[name] for name in RESULTS)
    now = float("inf")
    if got.shape == expected.shape == judged.shape:
        if record.buckets:
            differing = int(((got != expected) & judged).sum())
            now = float(max(differing - record.explained, 0))
        else:
            now = greatest_difference(got, expected, judged)
    repeats = np.array_equal(got.astype(then.dtype), then, equal_nan=then.dtype.kind == "f")
    return Replay(record, now, repeats)


def read_record(folder: Path) -> NodeRecord:
    """What `folder`/node.json says; ArtifactError when it is missing or broken."""
    path = folder / RECORD_NAME
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: got no {RECORD_NAME}, expected a folder written by `reformer-export verify "
            "--bisect`; name that folder"
        )
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise _broken(path, f"{path.stat().st_size} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        layer = values["layer"]
        return NodeRecord(
            node=str(values["node"]),
            operator=str(values["operator"]),
            module=str(values["module"]),
            layer=None if layer is None else int(layer),
            buckets=bool(values["buckets"]),
            error=float("inf") if values["error"] is None else float(values["error"]),
            tolerance=float(values["tolerance"]),
            explained=int(values["explained"]),
            native=bool(values["native"]),
            provider=str(values["provider"]),
            files={GRAPH_NAME: "", ARRAYS_NAME: ""} | {str(k): str(v) for k, v in values["files"].items()},
        )
    except OSError as error:
        raise _broken(path, f"'{error.strerror or error}'") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz, stored as they are: a compressed member may unpack to more than memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise _broken(path, "compressed arrays")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, SyntaxError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error


def _broken(path: Path, got: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: got {got}, expected what `reformer-export verify --bisect` writes; run it again"
    )
