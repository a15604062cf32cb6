from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.libraries.compiler import LEAST_NVCC, find_cxx_compiler, find_nvcc, how_to_build
from tests.libraries.fake_toolchain import write_nvcc, write_program

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CUDACXX", raising=False)
    return tmp_path


def test_a_compiler_is_there_and_no_library_built(path: Path) -> None:
    """Case 23: it says how to build it, not to install a compiler."""
    assert how_to_build() == (
        "install a C++ compiler such as g++, then `reformer-export build-library` builds it"
    )
    write_program(path / "g++", "")
    assert how_to_build() == "`reformer-export build-library` builds it"
    assert how_to_build("--cuda") == "`reformer-export build-library --cuda` builds it"


def test_the_c_plus_plus_compiler(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cxx_compiler() is None
    clang = write_program(path / "clang++", "")
    assert find_cxx_compiler() == str(clang)
    cxx = write_program(path / "c++", "")
    assert find_cxx_compiler() == str(cxx)
    monkeypatch.setenv("CXX", f"{clang} -stdlib=libc++")
    assert find_cxx_compiler() == f"{clang} -stdlib=libc++"
    monkeypatch.setenv("CXX", "/no/compiler")
    assert find_cxx_compiler() is None


@pytest.mark.parametrize(
    ("release", "fits"), [("12.8", True), ("12.10", True), ("13.0", True), ("12.7", False)]
)
def test_cuda_s_compiler(path: Path, monkeypatch: pytest.MonkeyPatch, release: str, fits: bool) -> None:
    monkeypatch.setenv("CUDACXX", str(path / "elsewhere" / "nvcc"))
    assert find_nvcc() is None
    nvcc = write_nvcc(path / "elsewhere" / "nvcc", release)
    assert find_nvcc() == (nvcc if fits else None)


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho hello\n", "no program"])
def test_what_is_no_nvcc(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CUDACXX", str(write_program(path / "nvcc", text)))
    assert find_nvcc() is None


def test_cmake_wants_the_same_nvcc() -> None:
    text = (ROOT / "plugins/cmake/find_cuda.cmake").read_text()
    assert f"set(REFORMER_LEAST_NVCC {'.'.join(map(str, LEAST_NVCC))})" in text
    script = (ROOT / "plugins/scripts/get_cuda_toolchain.sh").read_text()
    assert f"$1 > {LEAST_NVCC[0]} || $1 == {LEAST_NVCC[0]} && $2 >= {LEAST_NVCC[1]}" in script
