"""Memory as the test's own process has it, for tests of what is made of it: others import torch first."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator
from unittest import mock

import msgspec

from reformer_export.measure import decoding_memory, memory


def run_here(module: str, job: tuple[object, ...]) -> str:
    """As `memory.run_alone`, but not alone."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        importlib.import_module(module).main(msgspec.json.encode(job).decode())
    return printed.getvalue().splitlines()[-1]


@contextlib.contextmanager
def memory_in_process() -> Iterator[None]:
    """Processes of their own are tested in test_memory.py, test_decoding.py and cli/test_bench.py."""
    with (
        mock.patch.object(memory, "run_alone", run_here),
        mock.patch.object(decoding_memory, "run_alone", run_here),
    ):
        yield
