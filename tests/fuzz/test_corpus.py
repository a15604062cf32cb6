"""Every kept input of the fuzzer, once, without the fuzzer; and that a target does tell good from bad."""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import ReformerExportError
from tests.fuzz.targets import TARGETS, run_target

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs, f"no corpus for {name}: run `make fuzz`"
    for path in inputs:
        run_target(name, path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_unedited_file_is_accepted(name: str) -> None:
    if name == "manifest":  # its seed names the SHA-256 of a model that the target does not have
        with pytest.raises(ReformerExportError, match="SHA-256"):
            TARGETS[name](b"\x01")
    else:
        TARGETS[name](b"\x01")


@pytest.mark.parametrize("name", TARGETS)
def test_rubbish_is_refused(name: str) -> None:
    with pytest.raises(ReformerExportError):
        TARGETS[name](b"rubbish")
