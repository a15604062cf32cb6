"""What CMake makes of REFORMER_BUILD_CUDA and REFORMER_CUDA_ARCHITECTURES, without a compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.libraries.fake_toolchain import write_nvcc, write_program
from tests.required import skip_unless_required

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "plugins/cmake"
SHIPPED = re.search(
    r"set\(REFORMER_ALL_CUDA_ARCHITECTURES ([0-9 ]+)\)", (MODULES / "architectures.cmake").read_text()
)[1].replace(" ", ",")


@pytest.fixture(autouse=True)
def cmake() -> None:
    if shutil.which("cmake") is None:
        skip_unless_required("no cmake")


def run_module(tmp_path: Path, module: str, path: Path, result: str, **values: str) -> tuple[str, str]:
    """The variable `result` after the module, and what was said; the PATH is `path` alone."""
    script = tmp_path / "script.cmake"
    script.write_text(f'include({MODULES / module})\nmessage(STATUS "result=[${{{result}}}]")\n')
    program = shutil.which("cmake")
    assert program is not None
    defines = [f"-D{name}={value}" for name, value in values.items()]
    command = [program, *defines, "-P", script]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(path)}, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    found = re.search(r"result=\[(.*?)\]", said)
    return (found[1] if found else "stopped"), said


def choose(tmp_path: Path, wanted: str, path: Path | None = None) -> tuple[str, str]:
    return run_module(
        tmp_path,
        "architectures.cmake",
        path or tmp_path / "empty",
        "REFORMER_CUDA_LIST",
        REFORMER_CUDA_ARCHITECTURES=wanted,
    )


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ("90", "90"),
        ("90;", "90"),
        ("100;80;90", "80,90,100"),
        ("90,80", "80,90"),
        ("all", SHIPPED),
        ("auto", SHIPPED),
    ],
)
def test_architectures_without_a_gpu(tmp_path: Path, wanted: str, got: str) -> None:
    assert choose(tmp_path, wanted)[0] == got


@pytest.mark.parametrize("wanted", ["", "sm_90", "9.0", "90a", "all;90"])
def test_what_names_no_architecture_stops(tmp_path: Path, wanted: str) -> None:
    result, said = choose(tmp_path, wanted)
    assert result == "stopped"
    assert "expected numbers such as 80;90" in said


def test_this_machine_s_gpus(tmp_path: Path) -> None:
    write_program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 9.0\necho 8.6\necho 9.0\n")
    for wanted in ("auto", "native"):
        assert choose(tmp_path, wanted, tmp_path / "bin")[0] == "86,90"
    result, said = choose(tmp_path, "native")
    assert result == "stopped"
    assert "nvidia-smi names no GPU here" in said


@pytest.mark.parametrize("page", ["README.md", "docs/installing.md"])
def test_the_pages_list_what_is_shipped(page: str) -> None:
    numbers = [int(number) for number in SHIPPED.split(",")]
    words = ", ".join(f"{number // 10}.{number % 10}" for number in numbers)
    assert words in " ".join((ROOT / page).read_text().split())


def test_a_newer_generation_has_three_digits(tmp_path: Path) -> None:
    write_program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 12.0\n")
    assert choose(tmp_path, "native", tmp_path / "bin")[0] == "120"


@pytest.mark.parametrize(
    ("release", "reason"),
    [
        (None, "no nvcc"),
        ("11.8", "/nvcc is 11.8"),
        ("12.7", "/nvcc is 12.7"),
        ("?", "does not say its version"),
    ],
)
def test_without_a_cuda_compiler_that_fits(tmp_path: Path, release: str | None, reason: str) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    if release is not None:
        write_nvcc(nvcc, release)
    options = {"path": tmp_path / "bin", "result": "REFORMER_BUILD_CUDA", "CMAKE_CUDA_COMPILER": str(nvcc)}
    result, said = run_module(tmp_path, "find_cuda.cmake", REFORMER_BUILD_CUDA="AUTO", **options)
    assert result == "OFF"
    assert reason in said
    result, said = run_module(tmp_path, "find_cuda.cmake", REFORMER_BUILD_CUDA="ON", **options)
    assert result == "stopped"
    assert "put nvcc 12.8 or newer on the PATH" in said


@pytest.mark.parametrize("release", ["12.8", "12.10", "13.0"])
def test_a_cuda_compiler_that_fits(tmp_path: Path, release: str) -> None:
    nvcc = write_nvcc(tmp_path / "bin" / "nvcc", release)
    options = {"path": tmp_path / "bin", "REFORMER_BUILD_CUDA": "ON"}
    assert run_module(tmp_path, "find_cuda.cmake", result="REFORMER_NVCC", **options)[0] == str(nvcc)
    named = write_nvcc(tmp_path / "named" / "nvcc", release)
    options["CMAKE_CUDA_COMPILER"] = str(named)
    assert run_module(tmp_path, "find_cuda.cmake", result="REFORMER_NVCC", **options)[0] == str(named)


def test_a_toolchain_s_compiler_where_the_path_has_an_old_one(tmp_path: Path) -> None:
    write_nvcc(tmp_path / "bin" / "nvcc", "11.8")
    new = write_nvcc(tmp_path / "toolchain" / "cuda" / "bin" / "nvcc", "13.0")
    result, _ = run_module(
        tmp_path,
        "find_cuda.cmake",
        tmp_path / "bin",
        "REFORMER_NVCC",
        REFORMER_BUILD_CUDA="ON",
        REFORMER_CUDA_TOOLCHAIN=str(tmp_path / "toolchain"),
    )
    assert result == str(new)
