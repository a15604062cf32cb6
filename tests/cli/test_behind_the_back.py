"""What an imported library does unasked: files under HOME and look-ups on the network. None of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from tests.hf_models import config_t, save_model
from tests.required import skip_unless_required
from tests.runtimes.artifacts import write_artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches the C library's calls by LD_PRELOAD")

WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static void note(const char* what, const char* name) {
  FILE* log = fopen(getenv("WATCH_LOG"), "a");
  if (log != NULL) {
    fprintf(log, "%s %s\n", what, name == NULL ? "" : name);
    fclose(log);
  }
}

typedef struct addrinfo info;

int getaddrinfo(const char* node, const char* service, const info* hints, info** found) {
  note("getaddrinfo", node);
  int (*next)(const char*, const char*, const info*, info**) = dlsym(RTLD_NEXT, "getaddrinfo");
  return next(node, service, hints, found);
}

struct hostent* gethostbyname(const char* name) {
  note("gethostbyname", name);
  struct hostent* (*next)(const char*) = dlsym(RTLD_NEXT, "gethostbyname");
  return next(name);
}

int connect(int descriptor, const struct sockaddr* address, socklen_t length) {
  if (address->sa_family == AF_INET || address->sa_family == AF_INET6) note("connect", "");
  int (*next)(int, const struct sockaddr*, socklen_t) = dlsym(RTLD_NEXT, "connect");
  return next(descriptor, address, length);
}
"""


class Watched:
    """Runs programs with HOME in an empty folder and every look-up written down."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.home, self.log, self.folder = folder / "home", folder / "log", folder
        self.home.mkdir()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL", "HF_"))
        }
        kept.pop("ORT_DISABLE_TELEMETRY", None)
        self.environment = {
            **kept, "HOME": str(self.home), "LD_PRELOAD": str(library), "WATCH_LOG": str(self.log)
        }  # fmt: skip

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=500,
            cwd=Path(__file__).parents[2],
        )

    def check(self, *arguments: object) -> None:
        """The program does its work, leaves nothing under HOME and looks nothing up."""
        ended = self.run(*arguments)
        assert ended.returncode == 0, ended
        assert list(self.home.iterdir()) == []
        assert not self.log.exists(), self.log.read_text()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        skip_unless_required("no C compiler for the library that watches")
    folder = tmp_path_factory.mktemp("watch")
    (folder / "watch.c").write_text(WATCH)
    path = folder / "libwatch.so"
    command = [compiler, "-shared", "-fPIC", "-o", path, folder / "watch.c", "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def watched(tmp_path: Path, library: Path) -> Watched:
    return Watched(tmp_path, library)


PROGRAM = ("-m", "reformer_export")


def test_the_watch_sees_a_look_up(watched: Watched) -> None:
    code = "import socket\ntry:\n    socket.getaddrinfo('localhost', 1)\nexcept OSError: pass"
    watched.run("-c", code)
    assert "getaddrinfo localhost" in watched.log.read_text()


def test_an_artifact_that_runs(watched: Watched) -> None:
    out = write_artifact(watched.folder / "out")
    watched.check(*PROGRAM, "run", out, "hi")
    watched.check(*PROGRAM, "generate", out, "--prompt", "hi", "--max-new-tokens", 2)
    watched.check(*PROGRAM, "inspect", out)
    watched.check(*PROGRAM, "inspect", out, "--report", watched.folder / "page.html")
    watched.check(*PROGRAM, "doctor", out)
    watched.check("-c", f"import reformer_export\nreformer_export.load({str(out)!r}).run([[5]])")


@pytest.mark.slow
def test_an_artifact_that_is_made_and_judged(watched: Watched) -> None:
    checkpoint = save_model(watched.folder, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    out, page = watched.folder / "out", watched.folder / "page.html"
    watched.check(*PROGRAM, "onnx", checkpoint, out)
    watched.check(*PROGRAM, "verify", out, "--lengths", 9, "--batch-sizes", 1, "--report", page)
    watched.check(*PROGRAM, "bench", out, "--lengths", 8, "--repeat", 2, "--report", page)


@pytest.mark.parametrize("value", ["0", "1"])
def test_an_environment_that_says_so_itself_is_left_alone(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reformer_export.runtimes.ort_session import import_onnxruntime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == value
