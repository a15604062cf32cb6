"""A real tritonserver for the tests: `python -m tests.serving.triton.server FOLDER` makes its environment.

It comes in the wheel of nvidia-pytriton: the server, its python backend and a stub of that for each Python.
The environment has that wheel and the numpy that the stub was built for; all else is this environment's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
FOLDER: Final = ROOT / "build" / "triton"
REQUIREMENTS: Final = Path(__file__).with_name("requirements.txt")
SECONDS_TO_START: Final = 60.0
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


def reason_not_to() -> str | None:
    """Why there can be no server here; None where there can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "tritonserver's wheel is for Linux on x86-64"
    if sys.version_info >= (3, 13):
        return f"tritonserver's wheel is for Python up to 3.12, not {PYTHON}"
    if find_libpython() is None:
        return f"libpython{PYTHON}.so.1.0 is not installed"
    return None


def find_libpython() -> Path | None:
    """The folder of the shared library of this Python, which the stub needs."""
    named = [
        sysconfig.get_config_var("LIBDIR"),
        f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
        "/usr/lib64",
    ]
    folders = (Path(folder) for folder in named if folder)
    return next((folder for folder in folders if (folder / f"libpython{PYTHON}.so.1.0").is_file()), None)


def install(folder: Path) -> None:
    """Make the environment in `folder`, with its backends beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    site = _site_packages(folder)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", site, "-r", REQUIREMENTS], check=True)
    # The stub hears no PYTHONPATH.
    (site / "tests.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    backend = folder / "backends" / "python"
    triton = site / "pytriton" / "tritonserver"
    shutil.copytree(triton / "backends" / "python", backend)
    shutil.copy(triton / "python_backend_stubs" / PYTHON / "triton_python_backend_stub", backend)


def _site_packages(folder: Path) -> Path:
    return folder / "venv" / "lib" / f"python{PYTHON}" / "site-packages"


@dataclass(frozen=True)
class Server:
    """A server that runs: where it listens, and where it writes what it says."""

    http: str
    grpc: str
    log: Path


@contextlib.contextmanager
def run_server(repositories: Sequence[Path], log: Path, folder: Path = FOLDER) -> Iterator[Server]:
    """A server of `repositories` that is ready; it ends with the block."""
    ports = _free_ports(3)
    site = _site_packages(folder)
    libraries = [str(site / "nvidia_pytriton.libs"), str(find_libpython())]
    environment = os.environ | {
        "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    names = ("http", "grpc", "metrics")
    listening = [f"--{name}-address=127.0.0.1" for name in names]
    listening += [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
    command = [
        site / "pytriton" / "tritonserver" / "bin" / "tritonserver",
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={folder / 'backends'}",
        "--disable-auto-complete-config",  # which would open every model twice
        *listening,
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        _wait(process, ports[0], log)
        yield Server(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"tritonserver does not start: {log.read_text(errors='replace')[-3000:]}")


if __name__ == "__main__":
    problem = reason_not_to()
    if problem is None:
        install(Path(sys.argv[1]))
    else:  # the tests say the same, and are skipped
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        print(f"No Triton server here: {problem}.")
