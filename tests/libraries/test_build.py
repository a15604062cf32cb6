"""build_libraries with programs that stand in for the tools, and once with the real ones."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from reformer_export.errors import LibraryBuildError, OutputError, RuntimeUnavailableError
from reformer_export.libraries import build as build_module
from reformer_export.libraries import build_steps, sources
from reformer_export.libraries.build import build_libraries
from reformer_export.libraries.build_options import LibraryOptions
from reformer_export.libraries.cache import RECORD_NAME, builds_folder, cache_folder, find_built_library
from reformer_export.libraries.operators import describe_library
from tests.libraries.fake_toolchain import (
    OPERATORS,
    PLUGINS,
    FakeToolchain,
    compile_library,
    write_nvcc,
    write_program,
)
from tests.runtimes.tensorrt.engines import write_library

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeToolchain:
    """The fake programs on the PATH, sources in the package, and an empty cache."""
    made = FakeToolchain(tmp_path / "tools")
    packaged = tmp_path / "package" / "_sources"
    (packaged / "scripts").mkdir(parents=True)
    (packaged / "CMakeLists.txt").write_text("# sources")
    monkeypatch.setattr(sources, "PACKAGED", packaged)
    monkeypatch.setattr(build_module, "INSTALLED", tmp_path / "package" / "_native")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CUDACXX", raising=False)
    return made


def list_cache(tmp_path: Path) -> list[str]:
    """The files in the cache, without the log."""
    found = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix != ".log")


def test_a_build_is_found_from_then_on(tools: FakeToolchain) -> None:
    tools.make_products()
    said: list[str] = []
    steps: list[tuple[int, int]] = []
    assert find_built_library(OPERATORS) is None
    build = build_libraries(say=said.append, advance=lambda *step: steps.append(step))
    assert build.is_new
    assert find_built_library(OPERATORS) == build.folder / OPERATORS == build.paths[0]
    assert describe_library(build.paths[0]).cpu_target == "fake"
    assert said == ["Configuring; headers that are missing are fetched, as the log says", "Compiling"]
    assert steps == [(1, 2), (2, 2)]
    configure, compile_, install = tools.calls("cmake")
    for define in ("REFORMER_BUILD_CUDA=OFF", "REFORMER_BUILD_TENSORRT=OFF", "REFORMER_BUILD_TESTS=OFF"):
        assert f"-D{define}" in configure.split()
    assert compile_.endswith("--target reformer_libraries")
    assert "--strip" in install
    assert "error" not in (cache_folder() / "build-library.log").read_text()


def test_it_is_built_once(tools: FakeToolchain) -> None:
    tools.make_products()
    first = build_libraries()
    second = build_libraries()
    assert (second.is_new, second.folder, second.record) == (False, first.folder, first.record)
    assert len(tools.calls("cmake")) == 3
    third = build_libraries(overwrite=True)
    assert third.is_new
    assert third.record.built > first.record.built
    assert len(tools.calls("cmake")) == 6


def test_a_damaged_build_is_built_again(tools: FakeToolchain) -> None:
    tools.make_products()
    path = build_libraries().paths[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RuntimeUnavailableError, match=r"SHA-256 .*as it was built; delete .*build-library"):
        find_built_library(OPERATORS)
    assert build_libraries().is_new
    assert find_built_library(OPERATORS) == path


def test_other_sources_or_options_are_another_build(tools: FakeToolchain) -> None:
    tools.make_products()
    first = build_libraries()
    (sources.PACKAGED / "kernel.cu").write_text("new")
    sources.hash_sources.cache_clear()
    assert find_built_library(OPERATORS) is None
    second = build_libraries()
    write_nvcc(tools.bin / "nvcc", "13.0")
    third = build_libraries(LibraryOptions(cuda=True, architectures=(90, 80)))
    assert len({first.folder, second.folder, third.folder}) == 3
    sources.hash_sources.cache_clear()


def test_cuda_with_the_machine_s_own_compiler(tools: FakeToolchain) -> None:
    tools.make_products("80,90")
    nvcc = write_nvcc(tools.bin / "nvcc", "12.8")
    build = build_libraries(LibraryOptions(cuda=True, architectures=(90, 80)))
    assert build.record.architectures == (80, 90)
    configure = tools.calls("cmake")[0]
    assert "-DREFORMER_CUDA_ARCHITECTURES=80;90" in configure
    assert f"-DCMAKE_CUDA_COMPILER={nvcc}" in configure
    assert tools.calls("python") == []


@pytest.mark.parametrize("release", [None, "11.8"])
def test_cuda_s_compiler_is_fetched_where_there_is_none_that_fits(
    tools: FakeToolchain, monkeypatch: pytest.MonkeyPatch, release: str | None
) -> None:
    tools.make_products("90")
    nvcc = tools.bin / "nvcc"
    monkeypatch.setenv("CUDACXX", str(nvcc))
    if release is not None:
        write_nvcc(nvcc, release)
    script = '#!/bin/sh\necho "script $1 [$CUDACXX] $PYTHON" >> "$(dirname "$PYTHON")/calls"\n'
    (sources.PACKAGED / "scripts" / "get_cuda_toolchain.sh").write_text(script)
    monkeypatch.setattr(build_steps.sys, "executable", str(tools.python))
    said: list[str] = []
    build_libraries(LibraryOptions(cuda=True, architectures=(90,)), say=said.append)
    assert said[0] == "Fetching CUDA's compiler (105 MB) with pip, into a temporary folder"
    (call,) = tools.calls("script")
    toolchain, named, python = call.split()
    assert (named, python) == ("[]", str(tools.python))
    configure = tools.calls("cmake")[0]
    assert f"-DREFORMER_CUDA_TOOLCHAIN={toolchain}" in configure
    assert f"-DCMAKE_CUDA_COMPILER={toolchain}/cuda/bin/nvcc" in configure
    assert not Path(toolchain).exists()  # fetched for this build only


def test_tensorrt_brings_both_libraries(tools: FakeToolchain) -> None:
    tools.make_products("90")
    write_library(tools.products, "90")
    write_nvcc(tools.bin / "nvcc", "13.0")
    (sources.PACKAGED / "scripts" / "get_cuda_toolchain.sh").write_text("#!/bin/sh\n")
    said: list[str] = []
    build = build_libraries(LibraryOptions(tensorrt=True, architectures=(90,)), say=said.append)
    assert said[0] == "Fetching TensorRT's headers with pip, into a temporary folder"
    assert find_built_library(PLUGINS) == build.folder / PLUGINS
    assert find_built_library(OPERATORS) == build.folder / OPERATORS


def test_cmake_and_ninja_are_fetched_where_the_path_has_none(
    tools: FakeToolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.make_products()
    which = shutil.which
    monkeypatch.setattr(build_steps.shutil, "which", lambda name: None if name == "cmake" else which(name))
    monkeypatch.setattr(build_steps.sys, "executable", str(tools.python))
    said: list[str] = []
    build_libraries(say=said.append)
    assert said[0] == "Fetching CMake and Ninja (30 MB) with pip, into a temporary folder"
    (call,) = tools.calls("python")
    assert call.startswith("-m pip install --quiet")
    assert call.endswith("requirements-build.txt")


def test_without_a_network_one_line_names_the_log(
    tools: FakeToolchain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools.set("offline")
    monkeypatch.setattr(build_steps.shutil, "which", lambda _name: None)
    monkeypatch.setattr(build_module, "require_cxx_compiler", lambda: "c++")
    monkeypatch.setattr(build_steps.sys, "executable", str(tools.python))
    with pytest.raises(LibraryBuildError, match=r"pip: got exit status 1, 'ERROR: no network'.*\.log$"):
        build_libraries()
    assert list_cache(tmp_path) == []


def test_what_does_not_compile_leaves_nothing(tools: FakeToolchain, tmp_path: Path) -> None:
    tools.set("fails")
    log = tmp_path / "cache" / "reformer-export" / "build-library.log"
    with pytest.raises(LibraryBuildError) as caught:
        build_libraries()
    assert str(caught.value) == (
        "building the library: cmake: got exit status 1, 'one.cc:3: error: no such thing', "
        f"expected success; see its output in {log}"
    )
    assert "[1/2] Building CXX object one" in log.read_text()
    assert list_cache(tmp_path) == []
    assert find_built_library(OPERATORS) is None


def test_a_library_of_another_abi_is_not_kept(tools: FakeToolchain, tmp_path: Path) -> None:
    tools.make_products(abi=99)
    with pytest.raises(RuntimeUnavailableError, match="got ABI version 99"):
        build_libraries()
    assert list_cache(tmp_path) == []


def test_an_interrupt_leaves_nothing(tools: FakeToolchain, tmp_path: Path) -> None:
    tools.make_products()

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_libraries(advance=interrupt)
    assert list_cache(tmp_path) == []


def test_an_interrupt_ends_what_cmake_started(tools: FakeToolchain, tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f'#!/bin/sh\nsleep 600 & echo $! > "{child}"\necho "[1/2] one"\nwait\n'
    write_program(tools.bin / "cmake", script)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_libraries(advance=interrupt)
    with pytest.raises(ProcessLookupError):
        wait_for_the_end(int(child.read_text()))


def wait_for_the_end(process: int) -> None:
    """ProcessLookupError once it has ended; a zombie, which nobody waits for, has."""
    for _ in range(100):
        os.kill(process, 0)
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            raise ProcessLookupError
        time.sleep(0.1)


def test_without_a_compiler(tools: FakeToolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeUnavailableError, match=r"C\+\+ compiler: got none, expected .*apt install"):
        build_libraries()
    monkeypatch.setenv("CXX", "/no/compiler -m64")
    with pytest.raises(RuntimeUnavailableError, match=r"got no /no/compiler -m64 \(\$CXX\)"):
        build_libraries()


def test_without_sources(tools: FakeToolchain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "PACKAGED", tmp_path / "none")
    monkeypatch.setattr(sources, "CLONED", tmp_path / "none")
    with pytest.raises(RuntimeUnavailableError, match="install the package again"):
        build_libraries()


def test_a_cache_that_others_may_write_to_is_refused(tools: FakeToolchain) -> None:
    tools.make_products()
    libraries = cache_folder() / "libraries"
    libraries.mkdir(parents=True)
    libraries.chmod(0o777)
    with pytest.raises(OutputError, match=r"a folder that others may write to.*chmod go-w"):
        build_libraries()


def test_whatever_the_umask_a_build_is_found(tools: FakeToolchain) -> None:
    tools.make_products()
    before = os.umask(0o002)
    try:
        build = build_libraries()
    finally:
        os.umask(before)
    assert find_built_library(OPERATORS) == build.paths[0]


def test_a_build_without_cuda_says_what_it_takes_the_place_of(tools: FakeToolchain) -> None:
    tools.make_products()
    assert build_libraries().note == ""
    build_module.INSTALLED.mkdir()
    compile_library(build_module.INSTALLED / OPERATORS, "80,90")
    note = build_libraries().note
    assert note.startswith("The package's own library has CUDA kernels, this one has none")
    assert str(build_libraries().folder) in note


def test_a_build_that_another_is_used_before_says_so(tools: FakeToolchain) -> None:
    tools.make_products("90")
    write_nvcc(tools.bin / "nvcc", "13.0")
    with_cuda = build_libraries(LibraryOptions(cuda=True, architectures=(90,)))
    assert with_cuda.note == ""
    tools.make_products()
    note = build_libraries().note
    assert note.startswith(f"{with_cuda.paths[0]} is used in its place: ")


def test_the_record_says_what_was_built(tools: FakeToolchain) -> None:
    tools.make_products()
    build = build_libraries()
    record = json.loads((build.folder / RECORD_NAME).read_text())
    assert record["files"][OPERATORS]["size"] == build.paths[0].stat().st_size
    assert (record["architectures"], record["tensorrt"]) == ([], False)
    assert build.folder.parent == builds_folder()


@pytest.mark.slow
def test_the_real_tools_build_the_cpu_library_of_the_packaged_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = find_headers()
    if headers is None or not all(map(shutil.which, ("c++", "cmake", "ninja"))):
        pytest.skip("needs a C++ compiler, CMake, Ninja, and the headers that make native fetches")
    packaged = tmp_path / "package" / "_sources" / "plugins"
    shutil.copytree(ROOT / "plugins", packaged, ignore=shutil.ignore_patterns("tests", "CMakePresets.json"))
    native = tmp_path / "package" / "_native"
    native.mkdir()
    shutil.copytree(headers["hwy"], native / "include" / "hwy")
    for header in headers["onnxruntime"].glob("*.h"):
        shutil.copy(header, native / "include")
    monkeypatch.setattr(sources, "PACKAGED", packaged)
    monkeypatch.setattr(build_module, "INSTALLED", native)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What takes the time is to optimise, which `make wheel` does with the same sources.
    quick = write_program(tmp_path / "c++", f'#!/bin/sh\nexec {shutil.which("c++")} "$@" -O0\n')
    monkeypatch.setenv("CXX", str(quick))
    build = build_libraries()
    found = find_built_library(OPERATORS)
    assert found == build.paths[0]
    library = describe_library(found)
    assert library.cpu_target
    assert library.architectures == ()


def find_headers() -> dict[str, Path] | None:
    """Highway's and ONNX Runtime's folders, as a build of this clone left them or the system has them."""
    roots = [*ROOT.glob("build/*/_headers/*/usr/include"), Path("/usr/include")]
    names = {"hwy": "highway.h", "onnxruntime": "onnxruntime_cxx_api.h"}
    folders = [(root / folder, name) for root in roots for folder, name in names.items()]
    found = {folder.name: folder for folder, name in folders if (folder / name).is_file()}
    return found if found.keys() == names.keys() else None
