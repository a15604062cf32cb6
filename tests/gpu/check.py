"""`make gpu-check`: everything that needs an NVIDIA GPU, in an environment of its own (.venv-gpu).

    python tests/gpu/check.py            build, test, sanitize, time, write docs/gpu-results.md
    python tests/gpu/check.py --dry-run  the steps that need no GPU, with this Python

Imports nothing but the standard library: it makes the environment that the rest needs. What failed and what
was missing is said at the end, in one list; logs are in build/gpu-check. Exit status 1 when anything failed,
2 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LOGS: Final = ROOT / "build" / "gpu-check"
BUILD: Final = ROOT / "build" / "gpu"
VENV: Final = ROOT / ".venv-gpu"
LIBRARIES: Final = {
    "REFORMER_EXPORT_LIBRARY": str(BUILD / "onnxruntime" / "libreformer_onnxruntime.so"),
    "REFORMER_EXPORT_TENSORRT_PLUGIN": str(BUILD / "tensorrt" / "libreformer_tensorrt.so"),
}
SANITIZER_TOOLS: Final = ("memcheck", "racecheck", "synccheck")
SANITIZER_ERROR: Final = 99
DRY_ARCHITECTURE: Final = "90"
NO_GPU: Final = 2


@dataclass(frozen=True)
class Step:
    """One command; `expected` is the exit status of one that does what it should.

    When an `optional` one fails, or the program of one that `may_be_absent` is not there, that is reported as
    missing, and the check goes on.
    """

    name: str
    command: tuple[str, ...]
    optional: bool = False
    may_be_absent: bool = False
    expected: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT


@dataclass
class Outcome:
    """What came out so far. `lines` say what was done, for the page; the others what was not."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def find_architecture() -> str | None:
    """The first GPU's compute capability as CMake wants it ("90"), from nvidia-smi; None without a GPU."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"\s*(\d+)\.(\d+)", text)
    return found.group(1) + found.group(2) if found else None


def plan_environment() -> list[Step]:
    """.venv-gpu: torch with CUDA in place of the CPU build that tests/requirements.txt may bring."""
    pip = (str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet")
    onnxruntime = (pip[0], "-m", "pip", "uninstall", "--quiet", "--yes", "onnxruntime", "onnxruntime-gpu")
    probe = "import torch; assert torch.cuda.is_available(), f'torch {torch.__version__} finds no GPU'"
    return [
        Step("make .venv-gpu", (sys.executable, "-m", "venv", str(VENV))),
        Step("install torch with CUDA", (*pip, "torch>=2.9")),
        Step("install the package", (*pip, "-e", ".[dev]", "-C", "wheel.cmake=false")),
        Step("remove onnxruntime", onnxruntime),
        Step("install onnxruntime-gpu", (*pip, "onnxruntime-gpu[cuda,cudnn]>=1.22,<2")),
        Step("torch finds the GPU", (pip[0], "-c", probe)),
        Step("install TensorRT", (*pip, "-e", ".[tensorrt]", "-C", "wheel.cmake=false"), optional=True),
        Step("install TensorRT-RTX", (*pip, "-e", ".[rtx]", "-C", "wheel.cmake=false"), optional=True),
        Step("install compute-sanitizer", (*pip, "nvidia-cuda-sanitizer-api>=13.0,<14"), optional=True),
    ]


def plan_build(python: str, architecture: str) -> list[Step]:
    """Both libraries, for this machine's GPU only."""
    configure = ("cmake", "--preset", "cuda", "-B", str(BUILD))
    return [
        Step("find a CUDA compiler", ("make", "cuda-toolchain", f"PYTHON={python}")),
        Step(
            "configure the libraries",
            (*configure, f"-DREFORMER_CUDA_ARCHITECTURES={architecture}"),
            folder=ROOT / "plugins",
        ),
        Step("build the libraries", ("cmake", "--build", str(BUILD))),
    ]


def plan_checks(python: str) -> list[Step]:
    """Tests, sanitizer and timings on the GPU."""
    tests = (python, "-m", "pytest", "-m", "gpu or tensorrt")
    steps = [Step("tests", tests, environment={**LIBRARIES, "REQUIRE_GPU": "1"})]
    sanitizer = find_sanitizer(python)
    for tool in SANITIZER_TOOLS:
        options = ("--tool", tool, "--error-exitcode", str(SANITIZER_ERROR), "--kernel-name", "kns=reformer")
        shapes = (python, "-m", "tests.gpu.small_shapes")
        steps.append(Step(f"compute-sanitizer {tool}", (sanitizer, *options, *shapes), environment=LIBRARIES))
    bench = (python, "-m", "benchmarks.bench_gpu", "--checks", str(LOGS / "checks.txt"))
    return [*steps, Step("timings", bench, environment=LIBRARIES)]


def plan_dry_run(python: str) -> list[Step]:
    """What can be tried without a GPU; the build is for one architecture."""
    pytest = (python, "-m", "pytest", "-q")
    shapes = (python, "-m", "tests.gpu.small_shapes", "--device", "cpu")
    return [
        *plan_build(python, DRY_ARCHITECTURE),
        Step(
            "collect the tests", (*pytest, "--collect-only", "-m", "gpu or tensorrt"), environment=LIBRARIES
        ),
        Step("tests on the CPU", (*pytest, "tests/gpu", "-m", "not gpu"), environment=LIBRARIES),
        Step("small shapes on the CPU", shapes, environment=LIBRARIES),
        Step("timings refuse", (python, "-m", "benchmarks.bench_gpu"), expected=NO_GPU),
    ]


def find_sanitizer(python: str) -> str:
    """compute-sanitizer: that of the environment of `python`, else whatever the PATH has."""
    packages = Path(python).parents[1] / "lib"
    found = sorted(packages.glob("python3*/site-packages/nvidia/*/bin/compute-sanitizer"))
    return str(found[-1]) if found else "compute-sanitizer"


def run_step(step: Step, outcome: Outcome) -> bool:
    """Run it, its output on the terminal and in a log; False when the rest of the plan depends on it."""
    print(f"== {step.name}: {' '.join(step.command)}", flush=True)
    log = LOGS / f"{re.sub('[^a-z0-9]+', '-', step.name.lower())}.log"
    status, last, text = _run_logged(step, log)
    outcome.missing += [f"{step.name}: {line}" for line in find_skips(text)]
    if status == step.expected:
        outcome.lines.append(f"{step.name}: {last or 'done'}")
        return True
    reason = "no such program" if status is None else f"exit status {status}, expected {step.expected}"
    told = f"{step.name}: {reason}, see {log.relative_to(ROOT)}" + f": {last}" * bool(last)
    is_missing = step.optional or (status is None and step.may_be_absent)
    (outcome.missing if is_missing else outcome.failed).append(told)
    outcome.lines.append(f"{step.name}: {'missing' if is_missing else 'FAILED'}")
    return is_missing


def _run_logged(step: Step, log: Path) -> tuple[int | None, str, str]:
    """Exit status (None: no such program), last line and text of a step."""
    lines = []
    try:
        process = subprocess.Popen(
            step.command,
            cwd=step.folder,
            env={**os.environ, **step.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        return None, "", ""
    assert process.stdout is not None
    with log.open("w", encoding="utf-8") as stream:
        for line in process.stdout:
            print(line, end="", flush=True)
            stream.write(line)
            lines.append(line.strip())
    filled = [line for line in lines if line]
    return process.wait(), filled[-1].strip("= ") if filled else "", "\n".join(lines)


def find_skips(text: str) -> list[str]:
    """pytest's skipped tests with their reasons, each reason once."""
    reasons = re.findall(r"^SKIPPED \[\d+\] [^:]+(?::\d+)?: (.+)$", text, re.MULTILINE)
    return [f"skipped: {reason}" for reason in dict.fromkeys(reasons)]


def run_plan(steps: Sequence[Step], outcome: Outcome) -> bool:
    """Run the steps up to the first that fails; False when one did. Writes the page's lines on the way."""
    for step in steps:
        if not run_step(step, outcome):
            return False
        write_lines(outcome)
    return True


def write_lines(outcome: Outcome) -> None:
    """What `bench_gpu --checks` puts on the page."""
    missing = [f"missing: {line}" for line in outcome.missing]
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / "checks.txt").write_text("\n".join([*outcome.lines, *missing]) + "\n", encoding="utf-8")


def run_all(dry_run: bool, architecture: str | None, outcome: Outcome) -> None:
    """Environment and build come first and are needed; then every check runs, whatever the others say."""
    LOGS.mkdir(parents=True, exist_ok=True)
    if dry_run:
        run_plan(plan_dry_run(sys.executable), outcome)
        return
    assert architecture is not None
    python = str(VENV / "bin" / "python")
    if run_plan(plan_environment(), outcome) and run_plan(plan_build(sys.executable, architecture), outcome):
        for step in plan_checks(python):
            run_plan([step], outcome)
            write_lines(outcome)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="the steps that need no GPU")
    dry_run = parser.parse_args().dry_run
    architecture = find_architecture()
    if architecture is None and not dry_run:
        print("gpu-check: got no GPU (nvidia-smi names none), expected an NVIDIA GPU; nothing was run")
        return NO_GPU
    outcome = Outcome()
    run_all(dry_run, architecture, outcome)
    print("\n== Summary")
    for line in outcome.lines:
        print(line)
    for title, lines in (("Missing", outcome.missing), ("Failed", outcome.failed)):
        print(f"{title}: {'nothing' if not lines else ''}")
        for line in lines:
            print(f"  {line}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
