"""The building process's work, in this process, where a test can tell it which GPU there is."""

from __future__ import annotations

import dataclasses
import importlib
import io
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import EngineFlags, EngineProfile, PluginRecord
from reformer_export.artifact.files import sha256_of_file
from reformer_export.engine import EngineOptions, gpus, worker
from reformer_export.engine.request import BuildRequest, BuildResult, request_from_json
from reformer_export.errors import EngineError, InputError, RuntimeUnavailableError
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.tensorrt import describe_tensorrt_library
from reformer_export.runtimes.tensorrt.machine import Machine
from reformer_export.runtimes.tensorrt.preflight import check_machine
from tests.artifact.test_engine_record import RECORD
from tests.engine.fake_tensorrt import install_fake_tensorrt
from tests.runtimes.tensorrt.engines import write_library

Build = Callable[..., BuildResult]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Run a request with some options or paths, where the GPU is of compute capability `gpu`."""
    library = install_fake_tensorrt(tmp_path, monkeypatch)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    profile = EngineProfile((1, 1), (1, 8), (1, 16))
    request = BuildRequest(
        EngineOptions("tensorrt", profiles=(profile,)),
        model=str(model),
        plugin=str(library),
        engine=str(tmp_path / "engine"),
        operators={"TableRead": 1},
    )

    def run(gpu: str | None = "8.9", **fields: Any) -> BuildResult:
        found = None if gpu is None else ComputeCapability.parse(gpu)
        for module in (worker, gpus):
            monkeypatch.setattr(module, "find_compute_capability", lambda: found)
        paths = {name: str(fields.pop(name)) for name in ("timing_cache", "layers") if name in fields}
        options = dataclasses.replace(request.options, **fields)
        name = options.runtime.replace("-", "_")
        monkeypatch.setattr(worker, "import_tensorrt", lambda runtime: importlib.import_module(name))
        asked = dataclasses.replace(request, options=options, **paths)
        return worker.run_build(asked, worker.Events(io.StringIO()))

    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield run
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules.pop(name, None)


def engine_of(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "engine").read_text())


def test_tensorrt_builds_for_the_gpu_that_is_there(build: Build, tmp_path: Path) -> None:
    result = build("9.0")
    assert result == BuildResult("10.14.1", ("9.0",), {"TableRead": 1}, ())
    assert engine_of(tmp_path)["capabilities"] == []


def test_every_option_reaches_tensorrt(build: Build, tmp_path: Path) -> None:
    flags = EngineFlags(
        refit=True, stripped=True, version_compatible=True, hardware_compatible=True, tf32=True
    )
    build(flags=flags, builder_level=5, workspace=2**30, layers=tmp_path / "layers")
    engine = engine_of(tmp_path)
    assert engine["flags"] == ["REFIT", "STRIP_PLAN", "TF32", "VERSION_COMPATIBLE"]
    assert engine["hardware"] == "AMPERE_PLUS"
    assert (engine["level"], engine["calls"], engine["verbosity"]) == (5, {"WORKSPACE": 2**30}, "DETAILED")
    assert (tmp_path / "layers").read_text() == "layers, ONELINE"


def test_the_timing_cache_is_read_and_kept(build: Build, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(timing_cache=cache)
    assert cache.read_bytes() == b"+1"
    build(timing_cache=cache)
    assert cache.read_bytes() == b"+1+1"
    cache.write_bytes(b"of another GPU")
    with pytest.raises(EngineError, match=r"timing_cache: got .*, which is another version's or GPU's"):
        build(timing_cache=cache)


def test_the_layer_report_needs_a_gpu_that_the_engine_is_for(build: Build, tmp_path: Path) -> None:
    fields = {
        "runtime": "tensorrt-rtx",
        "compute_capabilities": ("12.0",),
        "layers": tmp_path / "layers",
    }
    (note,) = build("8.9", **fields).notes
    assert note == "no layer report: the engine must be loaded on a GPU it is for, and this one has 8.9"
    (note,) = build(None, **fields).notes
    assert note.endswith("and this one has none")
    assert not (tmp_path / "layers").exists()


def test_tensorrt_rtx_takes_this_machine_s_gpu_when_none_is_named(build: Build, tmp_path: Path) -> None:
    assert build("8.9", runtime="tensorrt-rtx").compute_capabilities == ("8.9",)
    assert engine_of(tmp_path)["capabilities"] == ["SM89"]


def test_a_gpu_that_tensorrt_rtx_does_not_know(build: Build) -> None:
    with pytest.raises(
        InputError, match=r"got 9\.0, this machine's GPU, expected one of 7\.5, 8\.0, 8\.9, 12\.0"
    ):
        build("9.0", runtime="tensorrt-rtx")


@pytest.mark.parametrize(
    ("gpu", "fields", "message"),
    [
        (None, {}, '`runtime="tensorrt"`: got a machine without an NVIDIA GPU'),
        ("7.0", {}, "GPU: got compute capability 7.0, expected 7.5 or newer"),
        (None, {"runtime": "tensorrt-rtx"}, "give it once for each, from 7.5, 8.0, 8.9, 12.0"),
        (
            None,
            {
                "runtime": "tensorrt-rtx",
                "compute_capabilities": ("8.0",),
                "flags": EngineFlags(refit=True),
            },
            "`refit`, `stripped`: got a machine without an NVIDIA GPU",
        ),
    ],
)
def test_what_needs_a_gpu_says_so(
    build: Build, gpu: str | None, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeUnavailableError, match=message):
        build(gpu, **fields)


def test_preflight_says_of_a_library_what_the_worker_said(build: Build, tmp_path: Path) -> None:
    """Whether it runs, by machine code or by the driver's compiler, for every set of architectures."""
    compiled = (80, 86, 89, 90, 100, 120)
    verdicts = set()
    for count, capability in itertools.product(range(1, 5), ("8.0", "8.6", "8.9", "9.0", "10.3", "12.0")):
        gpu = Gpu("A GPU", ComputeCapability.parse(capability), 2**34)
        for architectures in itertools.combinations(compiled, count):
            path = write_library(tmp_path, ",".join(map(str, architectures)))
            (verdict, *_) = [*build(capability).notes, "machine code: "]
            library = describe_tensorrt_library(path)
            plugin = PluginRecord(path.name, sha256_of_file(path), library.abi_version, "0.1.0", False)
            record = dataclasses.replace(
                RECORD, runtime="tensorrt", compute_capabilities=(capability,), plugin=plugin
            )
            machine = Machine(RECORD.runtime_version, gpu, library)
            if "will not run there" in verdict:
                with pytest.raises(RuntimeUnavailableError, match="got kernels for sm_"):
                    check_machine(record, machine)
            else:
                said = " ".join(check_machine(record, machine))
                assert ("the driver compiles" in said) == ("the driver compiles" in verdict)
            verdicts.add(verdict.partition(": ")[2])
    assert len(verdicts) == 3


def test_a_request_survives_its_json() -> None:
    profiles = (EngineProfile((1, 1), (1, 2), (3, 4)),)
    flags = EngineFlags(tf32=True)
    options = EngineOptions("tensorrt-rtx", "a", profiles, ("8.9",), 3, 4, None, flags, True, True, True)
    options = dataclasses.replace(options, num_hashes=2, decode=True, capacity=64)
    model = "model of \udcff, a name that is no UTF-8"
    request = BuildRequest(options, model, "plugin", "engine", {"LSHBuckets": 2}, "cache", "layers")
    assert request_from_json(request.to_json()) == request


def test_progress_is_thinned_out() -> None:
    stream = io.StringIO()
    events = worker.Events(stream)
    for step in range(1000):
        events.send_progress(worker.Progress(step / 1000, "phase", step, 1000))
    events.send("result", notes=[])
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"event": "progress", "fraction": 0.0, "phase": "phase", "done": 0, "total": 1000}
    assert lines[-1] == {"event": "result", "notes": []}
    assert len(lines) < 100
