"""Programs that stand in for a C++ compiler, CMake, Ninja, nvcc and pip: what they are asked is written down,
and what CMake installs is a library that was made before."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from reformer_export.libraries.installed import ABI_VERSION, library_name

OPERATORS = library_name("reformer_onnxruntime")
PLUGINS = library_name("reformer_tensorrt")

LIBRARY = """
#include <stdint.h>
struct info { uint32_t size, abi_version; const char *version, *cpu_target, *cuda_architectures; };
int reformer_library_info(struct info* info) {
  info->abi_version = ABI; info->version = "0.1.0"; info->cpu_target = "fake";
  info->cuda_architectures = CUDA;
  return 0;
}
"""

CMAKE = """#!/bin/sh
echo "cmake $*" >> "{calls}"
case "$1" in
  --build)
    echo "[1/2] Building CXX object one"
    if [ -e "{folder}/fails" ]; then echo "one.cc:3: error: no such thing"; exit 1; fi
    echo "[2/2] Linking two" ;;
  --install) mkdir -p "$5" && cp "{folder}"/products/* "$5" ;;
esac
"""

PYTHON = """#!/bin/sh
echo "python $*" >> "{calls}"
[ ! -e "{folder}/offline" ] || {{ echo "ERROR: no network"; exit 1; }}
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/cmake/data/bin" "$2/bin"
cp "{folder}/bin/cmake" "$2/cmake/data/bin/cmake"
cp "{folder}/bin/ninja" "$2/bin/ninja"
"""


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def write_nvcc(path: Path, release: str) -> Path:
    """An nvcc that says it is `release`, such as "13.0"."""
    line = f"Cuda compilation tools, release {release}, V{release}.88"
    return write_program(path, f"#!/bin/sh\necho '{line}'\n")


def compile_library(path: Path, cuda: str | None = None, abi: int = ABI_VERSION) -> Path:
    """A library with the operator library's entry point that says it has CUDA kernels for `cuda`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = path.with_suffix(".c")
    source.write_text(LIBRARY)
    named = f'"{cuda}"' if cuda else "0"
    command = [compiler, "-shared", "-fPIC", f"-DABI={abi}", f"-DCUDA={named}", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    source.unlink()
    return path


class FakeToolchain:
    """The programs in `folder`/bin, and the libraries in `folder`/products that CMake installs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.products = folder / "products"
        self.products.mkdir(parents=True)
        self._calls = folder / "calls"
        self._calls.touch()
        for name in ("c++", "ninja"):
            write_program(self.bin / name, "#!/bin/sh\n")
        names = {"calls": self._calls, "folder": folder}
        write_program(self.bin / "cmake", CMAKE.format(**names))
        self.python = write_program(folder / "python", PYTHON.format(**names))

    def make_products(self, cuda: str | None = None, abi: int = ABI_VERSION) -> None:
        compile_library(self.products / OPERATORS, cuda, abi)

    def calls(self, program: str) -> list[str]:
        """The arguments of each call of `program`."""
        lines = self._calls.read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    def set(self, name: str) -> None:
        """Let something go wrong: "fails", "offline"."""
        (self.folder / name).touch()
