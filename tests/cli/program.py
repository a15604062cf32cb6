"""The command line run in this process as `reformer-export` runs it: exit status and both streams."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from reformer_export.cli.main import main

PROGRESS = (
    "Loading the exporter ...",
    "Reading ",
    "Tracing and writing the graph ...",
    "Comparing with eager ...",
    "Compared cases: ",
    "Compared cases of decode.onnx: ",
    "Whole passes beside decoding: ",
    "Comparing node by node ...",
    "Passes over the data: ",
    "Runs on ",
    "Measured: ",
    "Done: ",
)


@dataclass(frozen=True)
class Outcome:
    """How the program ended and what it wrote."""

    status: object
    stdout: str
    stderr: str

    @property
    def messages(self) -> list[str]:
        """Standard error without progress."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return [line for line in lines if not line.startswith(PROGRESS)]

    @property
    def error(self) -> str:
        """The only message, which is an error's."""
        (line,) = self.messages
        assert line.startswith("Error: ")
        return line


def run_program(*arguments: object) -> Outcome:
    """`reformer-export` with `arguments`, in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["reformer-export", *map(str, arguments)]),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main()
        except SystemExit as left:
            return Outcome(left.code, stdout.getvalue(), stderr.getvalue())
    raise AssertionError("the program did not leave with an exit status")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` and its bytes; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
