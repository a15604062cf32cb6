"""What is compared before an engine is loaded: no GPU and no TensorRT are needed for any of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import EngineFlags, EngineRecord, engine_path, record_path
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.errors import (
    ArtifactError,
    InputError,
    ReformerExportError,
    RuntimeUnavailableError,
)
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.runtimes.tensorrt.machine import Machine
from reformer_export.runtimes.tensorrt.preflight import (
    check_machine,
    choose_engine,
    read_engine,
)
from tests.runtimes.tensorrt.engines import make_machine, open_fake, write_engine, write_library
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import FakeTensorRT

COMPATIBLE = EngineFlags(version_compatible=True, hardware_compatible=True)


def refuse(record: EngineRecord, machine: Machine) -> str:
    """The one line that the engine is refused with on the machine."""
    with pytest.raises(RuntimeUnavailableError) as caught:
        check_machine(record, machine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def gpu(capability: str) -> Gpu:
    return Gpu("A GPU", ComputeCapability.parse(capability), 2**34)


def test_nothing_of_the_engine_is_loaded_before_all_is_compared(out: Path, library: Path) -> None:
    """Each fact that does not fit is found while TensorRT and the GPU have not been asked for anything."""
    write_engine(out, library)
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    for wrong in (
        make_machine(library, runtime_version="10.3.0"),
        make_machine(library, gpu=None, gpu_problem="GPU: got none, expected one; buy one"),
        make_machine(library, gpu=gpu("7.5")),
        make_machine(None, library_problem="library: got none, expected one; build it"),
    ):
        with pytest.raises(RuntimeUnavailableError, match=r"got .*expected .*;"):
            open_fake(out, library, trt=trt, machine=wrong)
    with engine_path(out, "fake").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match=r"got \d+ bytes, expected \d+"):
        open_fake(out, library, trt=trt)
    assert (cuda.log, trt.loggers, trt.registry.loaded) == ([], [], [])


@pytest.mark.parametrize(
    ("version", "built", "flags", "fits"),
    [
        ("1.7.1.116", "1.7.1.116", EngineFlags(), True),
        ("10.7.0.post1", "10.7.0", EngineFlags(), True),
        ("1.7.1.117", "1.7.1.116", EngineFlags(), False),
        ("10.9.0", "10.7.0", EngineFlags(), False),
        ("10.9.0", "10.7.0", COMPATIBLE, True),
        ("10.10.0", "10.9.0", COMPATIBLE, True),
        ("10.7.0", "10.9.0", COMPATIBLE, False),
        ("11.0.0", "10.9.0", COMPATIBLE, False),
    ],
)
def test_the_runtime_s_version(
    out: Path, library: Path, version: str, built: str, flags: EngineFlags, fits: bool
) -> None:
    record = write_engine(out, library, runtime_version=built, flags=flags)
    machine = make_machine(library, runtime_version=version)
    if fits:
        assert check_machine(record, machine) == []
    else:
        message = refuse(record, machine)
        assert f"engine fake: got TensorRT {version}, expected {built}" in message
        assert "build the engine again" in message


@pytest.mark.parametrize(
    ("capability", "runtime", "built", "flags", "fits"),
    [
        ("8.9", "tensorrt", ("8.9",), EngineFlags(), True),
        ("8.6", "tensorrt-rtx", ("8.0", "8.6"), EngineFlags(), True),
        ("8.6", "tensorrt", ("8.9",), EngineFlags(), False),
        ("9.0", "tensorrt", ("8.0",), EngineFlags(), False),
        ("9.0", "tensorrt", ("8.0",), COMPATIBLE, True),
        ("8.0", "tensorrt", ("8.9",), COMPATIBLE, True),
        ("12.0", "tensorrt", ("8.0",), COMPATIBLE, True),
        ("7.5", "tensorrt", ("8.0",), COMPATIBLE, False),
        ("9.0", "tensorrt-rtx", ("8.0",), COMPATIBLE, False),
    ],
)
def test_the_gpu_s_compute_capability(
    out: Path, library: Path, capability: str, runtime: Any, built: Any, flags: EngineFlags, fits: bool
) -> None:
    write_library(library.parent, "75,80,90,120")
    record = write_engine(out, library, runtime=runtime, compute_capabilities=built, flags=flags)
    machine = make_machine(library, gpu=gpu(capability))
    if fits:
        check_machine(record, machine)
    else:
        message = refuse(record, machine)
        assert f"got a GPU of compute capability {capability} (A GPU), expected " in message
        assert built[0] in message or "8.0 or newer" in message


def test_no_gpu_is_said_in_one_line(out: Path, library: Path) -> None:
    record = write_engine(out, library)
    problem = "GPU: got no NVIDIA driver, expected a GPU; use another machine"
    assert refuse(record, make_machine(library, gpu=None, gpu_problem=problem)) == problem


def test_another_build_of_the_plugin_library(out: Path, library: Path) -> None:
    record = write_engine(out, library)
    library.write_bytes(library.read_bytes() + b"\0")
    message = refuse(record, make_machine(library))
    assert f"plugin library {library}: got SHA-256 " in message
    assert f"expected {record.plugin.sha256[:16]}..." in message


def test_a_plugin_library_of_another_abi(out: Path, library: Path) -> None:
    record = write_engine(out, library)
    older = dataclasses.replace(record, plugin=dataclasses.replace(record.plugin, abi_version=1))
    assert f"got ABI version {ABI_VERSION}, expected 1" in refuse(older, make_machine(library))


def test_an_embedded_plugin_library_is_not_compared(out: Path, library: Path) -> None:
    record = write_engine(out, library)
    embedded = dataclasses.replace(record, plugin=dataclasses.replace(record.plugin, embedded=True))
    assert check_machine(embedded, make_machine(None)) == []


@pytest.mark.parametrize(
    ("architectures", "capability", "verdict"),
    [
        ("80,90", "8.9", "fits"),
        ("80,90", "12.0", "note"),
        ("80,120", "9.0", "refused"),
    ],
)
def test_the_plugin_library_s_kernels(
    out: Path, library: Path, architectures: str, capability: str, verdict: str
) -> None:
    write_library(library.parent, architectures)
    record = write_engine(out, library, compute_capabilities=(capability,))
    machine = make_machine(library, gpu=gpu(capability))
    if verdict == "refused":
        assert "got kernels for sm_" in refuse(record, machine)
    else:
        notes = check_machine(record, machine)
        assert ["the driver compiles" in note for note in notes] == ([True] if verdict == "note" else [])


@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_truncated_engine(out: Path, library: Path, size: int) -> None:
    record = write_engine(out, library)
    path = engine_path(out, "fake")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        ArtifactError, match=rf"got \d+ bytes, expected {record.engine_bytes} .*copy it again"
    ):
        read_engine(out, read_manifest(out), record)


def test_an_engine_with_other_bytes(out: Path, library: Path) -> None:
    record = write_engine(out, library)
    path = engine_path(out, "fake")
    data = path.read_bytes()
    assert read_engine(out, read_manifest(out), record) == data
    path.write_bytes(data[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"got SHA-256 .*expected .*as its record says"):
        read_engine(out, read_manifest(out), record)


def test_an_engine_that_is_gone_or_outside(out: Path, library: Path, tmp_path: Path) -> None:
    record = write_engine(out, library)
    path = engine_path(out, "fake")
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="got no such file"):
        read_engine(out, read_manifest(out), record)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="expected a path inside the artifact"):
        read_engine(out, read_manifest(out), record)


def test_an_engine_of_another_model(out: Path, library: Path) -> None:
    record = write_engine(out, library, model_sha256="0" * 64)
    with pytest.raises(
        ArtifactError, match=rf"got {MODEL_NAME} of SHA-256 .*expected 0000.*build the engine"
    ):
        read_engine(out, read_manifest(out), record)


def test_a_changed_model_is_refused_first(out: Path, library: Path) -> None:
    write_engine(out, library)
    with (out / MODEL_NAME).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ArtifactError, match="the file changed after the export"):
        open_fake(out, library)


def test_the_only_engine_is_taken(out: Path, library: Path) -> None:
    write_engine(out, library, "rtx", runtime="tensorrt-rtx")
    write_engine(out, library, "full")
    machine = make_machine(library)
    assert choose_engine(out, "tensorrt", None, machine).name == "full"
    assert choose_engine(out, "tensorrt-rtx", None, machine).name == "rtx"
    assert choose_engine(out, "tensorrt-rtx", "rtx", machine).name == "rtx"


def test_of_several_engines_the_one_that_fits_is_taken(out: Path, library: Path) -> None:
    write_engine(out, library, "ampere", compute_capabilities=("8.0",))
    write_engine(out, library, "ada")
    assert choose_engine(out, "tensorrt", None, make_machine(library)).name == "ada"
    write_engine(out, library, "ada-large")
    with pytest.raises(InputError, match=r"got 2 engines .*\(ada, ada-large\).*name it with `engine`"):
        choose_engine(out, "tensorrt", None, make_machine(library))
    with pytest.raises(InputError, match=r"got 2 engines .*\(ada, ada-large\)"):
        open_fake(out, library)
    assert open_fake(out, library, engine="ada-large").record.name == "ada-large"


def test_when_no_engine_fits_the_error_says_why(out: Path, library: Path) -> None:
    write_engine(out, library, "a", compute_capabilities=("8.0",))
    write_engine(out, library, "b", compute_capabilities=("9.0",))
    with pytest.raises(RuntimeUnavailableError, match=r"compute capability 8\.9"):
        open_fake(out, library)


@pytest.mark.parametrize(
    ("runtime", "name", "message"),
    [
        ("tensorrt-rtx", None, r"got no engine for tensorrt-rtx, .*engine .* --runtime tensorrt-rtx"),
        ("tensorrt", "other", r"got 'other', expected one of this artifact's engines \(fake\)"),
        ("tensorrt", "../../x", r"expected one of this artifact's engines \(fake\)"),
        ("tensorrt-rtx", "fake", "got an engine for tensorrt, expected one for tensorrt-rtx"),
    ],
)
def test_no_such_engine(out: Path, library: Path, runtime: Any, name: str | None, message: str) -> None:
    write_engine(out, library)
    with pytest.raises(ReformerExportError, match=message):
        choose_engine(out, runtime, name, make_machine(library))


def test_a_broken_record_is_refused(out: Path, library: Path) -> None:
    write_engine(out, library)
    record_path(out, "fake").write_text("{")
    with pytest.raises(ArtifactError, match="not JSON"):
        open_fake(out, library)
