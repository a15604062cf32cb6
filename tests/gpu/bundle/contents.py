"""What a bundle holds, and where.

run.sh, README.txt, bundle.json
lib/       both libraries and the plugins' test, for the chosen GPUs
site/      third-party packages, unpacked, ONNX Runtime's without the code of other GPUs
project/   this project's sources, tests and benchmarks
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.gpu.bundle.keep_architecture import keep_architectures
from tests.gpu.checks.plans import BUILT

HERE: Final = Path(__file__).parent
PROJECT: Final = ("LICENSE", "pyproject.toml", "reformer_export", "tests", "benchmarks", "models/kjv-bytes")
LEFT_OUT: Final = (
    "__pycache__",
    "_native",
    ".cache",
    "fuzz",
    "*.png",
    "*.md",
    "layers-*",
    "long-*",
    "models-*",
)
GLIBCS: Final = (5, 12, 17, 24, 27, 28, 31, 34)
"""Minor versions of glibc 2 whose wheels are taken: those of a machine of 2022 and later."""

PROVIDER: Final = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
UNUSED: Final = (
    "bin",
    "onnx/backend/test",
    "onnx/test",
    "onnxruntime/capi/libonnxruntime.so*",
    "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
)
"""Of the packages; the checks import none of it. `bin` names the Python that pip ran with."""

README: Final = """\
Everything of reformer-export that needs an NVIDIA GPU, for a machine without a network.

    ./run.sh --dry-run      the steps that need no GPU
    ./run.sh [RESULTS]      all of it, in under six minutes; RESULTS is a folder, default gpu-results

Needed: Linux on {machine}, Python {python} with torch for CUDA 13 and transformers (PYTHON=/path/to/python
names it), a GPU of compute capability {architectures}, its driver. Taken when there: compute-sanitizer and
ncu. RESULTS then has log.txt, checks.txt, gpu.json (copy it to benchmarks/results/gpu-CARD.json in a clone),
the page made of it, tables and profiler pages.
"""


@dataclass(frozen=True)
class Target:
    """The machine a bundle is for. `python` ("3.12") is None where the bundle brings no packages, and so any
    Python does that has them."""

    architectures: tuple[int, ...]
    python: str | None
    machine: str = platform.machine()


def assemble_bundle(
    root: Path,
    libraries: Path,
    packages: Path | None,
    target: Target,
    folder: Path,
    project: Sequence[str] = PROJECT,
) -> None:
    """Fill the empty `folder`, from what `project` names in a clone's `root`, a folder of built `libraries`
    and one of unpacked `packages`, whose unused parts are left out."""
    copy_project(root, folder / "project", project)
    (folder / "lib").mkdir()
    for name in (Path(path).name for path in BUILT):
        shutil.copy2(libraries / name, folder / "lib" / name)
    shutil.copy2(HERE / "run.sh", folder / "run.sh")
    if packages is not None:
        copy_packages(packages, folder / "site", target.architectures)
    described = {
        "machine": target.machine,
        "python": target.python or "3",
        "architectures": ", ".join(map(str, target.architectures)),
    }
    (folder / "README.txt").write_text(README.format(**described), encoding="utf-8")
    (folder / "bundle.json").write_text(json.dumps(asdict(target), indent=1) + "\n", encoding="utf-8")


def copy_project(root: Path, target: Path, names: Sequence[str]) -> None:
    """Sources, tests and benchmarks, with the results that a dry run makes a page of, and a trained model."""
    target.mkdir(parents=True)
    for name in names:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy2(root / name, target / name)


def copy_packages(packages: Path, target: Path, architectures: Sequence[int]) -> None:
    shutil.copytree(packages, target, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in UNUSED:
        for path in target.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    provider = target / PROVIDER
    if provider.is_file():
        provider.unlink()
        keep_architectures(packages / PROVIDER, provider, architectures)


def install_packages(target: Target, folder: Path) -> None:
    """Unpack requirements.txt for the target's Python into `folder`, with this Python's pip."""
    assert target.python is not None
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in GLIBCS] + [
        f"manylinux2014_{target.machine}"
    ]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", target.python]
    for name in platforms:
        options += ["--platform", name]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options += ["--no-compile", "--target", str(folder), "-r", str(HERE / "requirements.txt")]
    subprocess.run([*pip, *options], check=True)


def find_paths(folder: Path, roots: Iterable[Path]) -> list[Path]:
    """Files in `folder` that name one of `roots`: paths of the machine that made the bundle."""
    needles = [str(root).encode() for root in roots]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if any(needle in path.read_bytes() for needle in needles)]
