"""`make gpu-bundle`: all that a GPU machine without a network needs, in one archive under 60 MB.

    python -m tests.gpu.bundle --architectures 90 --python 3.12 [--out dist/gpu-bundle.tar.xz]

Compiles the libraries, unpacks the packages that such a machine lacks, and takes out of ONNX Runtime's the
code of other GPUs; needs a network and no GPU. Above 60 MB the archive comes in numbered parts.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from tests.gpu.bundle.archive import pack
from tests.gpu.bundle.contents import (
    Target,
    assemble_bundle,
    find_paths,
    install_packages,
)
from tests.gpu.checks.plans import BUILD, ROOT, plan_build
from tests.gpu.checks.steps import Outcome, run_plan

NAME = "gpu-bundle"


def read_architectures(text: str) -> tuple[int, ...]:
    """(80, 90) of "80;90"."""
    parts = text.replace(",", ";").split(";")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected compute capabilities such as 80;90; give those"
        )
    return tuple(int(part) for part in parts)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--architectures", default="90", type=read_architectures, help='compute capabilities, such as "80;90"'
    )
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / f"{NAME}.tar.xz")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    target = Target(arguments.architectures, arguments.python)
    outcome = Outcome()
    work = ROOT / "build" / NAME
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    build = plan_build(sys.executable, ";".join(map(str, target.architectures)), BUILD / "lib")
    if not run_plan(build, outcome, work):
        print("\n".join(outcome.failed))
        return 1
    packages, folder = work / "packages", work / NAME
    install_packages(target, packages)
    folder.mkdir()
    assemble_bundle(ROOT, BUILD / "lib", packages, target, folder)
    if named := find_paths(folder, [ROOT]):
        print(f"gpu-bundle: got files that name paths of this machine: {', '.join(map(str, named))}")
        return 1
    for path in pack(folder, arguments.out):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")
    print(f"On the GPU machine: cat {arguments.out.name}* | tar -xJ && {NAME}/run.sh RESULTS")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
