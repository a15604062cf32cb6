"""`make wheel-check`: a machine that got the wheel and nothing else lists and uses every library.

    python tests/deployment.py ENVIRONMENT OUT

ENVIRONMENT is a virtual environment with the wheel and onnxruntime, OUT an artifact. The commands find no
other program (no compiler, no nvcc) and, where the system lets this user cut it, no network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

LIBRARIES: Final = {"CPU kernels": "yes, with ", "CUDA kernels": "", "TensorRT plugins": ""}
"""What `doctor` must list, and what it says that runs on a machine without a GPU too."""


def run_program(environment: Path, home: str, *arguments: str) -> str:
    """What reformer-export prints; a failure ends this program with what it said."""
    program = (str(environment / "bin" / "reformer-export"), *arguments)
    variables = {"PATH": str(environment / "bin"), "HOME": home, "LANG": "C.UTF-8"}
    result = subprocess.run([*cut_network(), *program], capture_output=True, text=True, env=variables)
    if result.returncode != 0:
        sys.exit(f"{' '.join(program)}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def cut_network() -> tuple[str, ...]:
    """What a command begins with that shall have no network; nothing where this user may not."""
    command = ("/usr/bin/unshare", "--map-root-user", "--net")
    try:
        allowed = subprocess.run([*command, "/bin/true"], capture_output=True).returncode == 0
    except OSError:
        return ()
    return command if allowed else ()


def check_libraries(states: list[dict[str, str]]) -> list[str]:
    """What is wrong with `doctor`'s list of the native libraries."""
    found = {state["name"]: state for state in states}
    problems = [f"no {name}" for name in LIBRARIES if name not in found]
    for name, state in found.items():
        if "of the package" not in state["found"] or not state["runs"].startswith(LIBRARIES[name]):
            problems.append(f"{name}: {state['found']}; runs here: {state['runs']}")
    return problems


def main() -> None:
    environment, out = (Path(argument).resolve() for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as home:
        states = json.loads(run_program(environment, home, "doctor", "--json"))["native"]
        problems = check_libraries(states)
        if problems:
            sys.exit("\n".join(problems))
        options = ("--prompt", "And God said", "--max-new-tokens", "50", "--native", "on")
        text = run_program(environment, home, "generate", str(out), *options)
        run_program(environment, home, "run", str(out), "In the beginning", "--native", "on")
        if not text.strip():
            sys.exit(f"generate wrote {text!r}")
    network = "no network" if cut_network() else "network (this user may not cut it)"
    print(f"The wheel's libraries are all there and used, with no compiler and {network}:")
    for state in states:
        print(f"  {state['name']}: {state['found']}; runs here: {state['runs']}")


if __name__ == "__main__":
    main()
