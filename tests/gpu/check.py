"""`make gpu-check`: everything that needs an NVIDIA GPU.

    python -m tests.gpu.check            a clone: make .venv-gpu, build, test, sanitize, time, write the page
    python -m tests.gpu.check --bundle DIR --results DIR
                                         the same checks with this Python and what a bundle holds; no network
    python -m tests.gpu.check --dry-run  the steps that need no GPU, with this Python

Imports nothing but the standard library: in a clone it makes the environment that the rest needs. What
failed and what was missing is said at the end, in one list, and in the results' folder: log.txt, checks.txt,
gpu.json, gpu-results.md, tables and profiler pages. Exit status 1 when anything failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.gpu.checks.plans import (
    BUILD,
    DRY_ARCHITECTURE,
    NO_GPU,
    ROOT,
    VENV,
    Layout,
    plan_build,
    plan_checks,
    plan_dry_run,
    plan_environment,
)
from tests.gpu.checks.steps import LOG_NAME, Budget, Outcome, Step, run_plan

CLONE_RESULTS: Final = ROOT / "build" / "gpu-check"


def find_architecture() -> str | None:
    """The first GPU's compute capability as CMake wants it ("90"), from nvidia-smi; None without a GPU."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"\s*(\d+)\.(\d+)", text)
    return found.group(1) + found.group(2) if found else None


def run_all(arguments: argparse.Namespace, architecture: str | None, outcome: Outcome) -> None:
    """In a clone environment and build come first and are needed; then every check runs, whatever the others
    say, as long as there is time."""
    results = arguments.results
    budget = Budget(None if arguments.dry_run else arguments.seconds)
    if arguments.bundle:
        layout = Layout(sys.executable, arguments.bundle / "lib", results)
    elif arguments.dry_run:
        layout = Layout(sys.executable, BUILD / "lib", results)
        build = plan_build(sys.executable, DRY_ARCHITECTURE, layout.libraries)
        if not run_plan(build, outcome, results):
            return
    else:
        assert architecture is not None
        layout = Layout(str(VENV / "bin" / "python"), BUILD / "lib", results)
        needed = [*plan_environment(), *plan_build(sys.executable, architecture, layout.libraries)]
        if not run_plan(needed, outcome, results):
            return
    plan = plan_dry_run(layout) if arguments.dry_run else plan_checks(layout)
    for step in choose_steps(plan, arguments.only):
        run_plan([step], outcome, results, budget)
        write_checks(layout.data, outcome)
    if not arguments.dry_run:
        write_pages(layout, outcome, in_clone=arguments.bundle is None)


def choose_steps(plan: Sequence[Step], names: str | None) -> list[Step]:
    """Those whose names contain one of `names` ("layers,tests of"); all of them for None."""
    if names is None:
        return list(plan)
    return [step for step in plan if any(name in step.name for name in names.split(","))]


def write_checks(data: Path, outcome: Outcome) -> None:
    """The checks as text and, where something was measured, among the measurements."""
    text = "\n".join(outcome.checks) + "\n"
    data.with_name("checks.txt").write_text(text, encoding="utf-8")
    if data.is_file():
        measured = json.loads(data.read_text(encoding="utf-8"))
        measured["checks"] = outcome.checks
        data.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def write_pages(layout: Layout, outcome: Outcome, in_clone: bool) -> None:
    """The results' page; in a clone docs/gpu-results.md and the file that it is made from, too."""
    measured = json.loads(layout.data.read_text(encoding="utf-8")) if layout.data.is_file() else {}
    if "machine" not in measured:
        outcome.missing.append("the page: nothing was measured")
        return
    pages = [(layout.data, layout.results / "gpu-results.md")]
    if in_clone:
        kept = Path("benchmarks", "results", f"gpu-{short_name(measured['machine']['gpu'])}.json")
        (ROOT / kept).write_bytes(layout.data.read_bytes())
        pages.append((kept, Path("docs", "gpu-results.md")))
    for source, page in pages:
        step = layout.step(f"write {page.name}", "-m", "benchmarks.gpu_report", str(source), str(page))
        run_plan([step], outcome, layout.results)


def short_name(card: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `h100-80gb-hbm3`."""
    return re.sub("[^a-z0-9]+", "-", card.lower().removeprefix("nvidia ")).strip("-")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="the steps that need no GPU")
    parser.add_argument("--bundle", type=Path, help="the folder that `make gpu-bundle`'s archive holds")
    parser.add_argument(
        "--results", type=Path, default=CLONE_RESULTS, help="where everything goes; from the current folder"
    )
    parser.add_argument("--seconds", type=float, help="for all checks on the GPU together; default: no limit")
    parser.add_argument("--only", help="steps whose names contain one of these, with commas between")
    parsed = parser.parse_args(arguments)
    parsed.results = parsed.results.resolve()
    return parsed


def find_misfit(described: Mapping[str, Any], python: str, architecture: str | None) -> str | None:
    """Why the bundle that bundle.json describes is not for this Python ("3.12") or this GPU ("90", or None);
    None when it is."""
    if described["python"] not in (None, python):
        return (
            f"python: got {python}, expected {described['python']}, which the bundle's packages are for; set "
            f"PYTHON to one, or make the bundle with --python {python}"
        )
    if architecture is not None and int(architecture) not in described["architectures"]:
        return (
            f"gpu: got compute capability {architecture}, expected one of {described['architectures']}; make "
            f"the bundle with CUDA_ARCHITECTURES={architecture}"
        )
    return None


def main() -> int:
    arguments = parse_arguments()
    architecture = find_architecture()
    if architecture is None and not arguments.dry_run:
        print("gpu-check: got no GPU (nvidia-smi names none), expected an NVIDIA GPU; nothing was run")
        return NO_GPU
    if arguments.bundle:
        described = json.loads((arguments.bundle / "bundle.json").read_text(encoding="utf-8"))
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        if misfit := find_misfit(described, python, architecture):
            print(f"gpu-check: {misfit}")
            return NO_GPU
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in () if arguments.only else (LOG_NAME, "gpu.json"):
        (arguments.results / name).unlink(missing_ok=True)
    outcome = Outcome()
    run_all(arguments, architecture, outcome)
    print("\n== Summary")
    for line in outcome.lines:
        print(line)
    for title, lines in (("Missing", outcome.missing), ("Failed", outcome.failed)):
        print(f"{title}: {'nothing' if not lines else ''}")
        for line in lines:
            print(f"  {line}")
    print(f"Everything is in {arguments.results}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
