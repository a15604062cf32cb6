"""Sessions of one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reformer_export.parity.cases import Case
from reformer_export.parity.results import VerifyResult
from reformer_export.parity.session import ON_CPU, open_session
from reformer_export.parity.sweep import sweep
from reformer_export.runtimes import RuntimeOptions


def sweep_artifact(
    folder: Path,
    checkpoint_folder: Path,
    cases: Sequence[Case] | None = None,
    options: RuntimeOptions = ON_CPU,
    seed: int = 0,
) -> VerifyResult:
    with open_session(folder, checkpoint_folder, options, seed) as session:
        return sweep(session, cases)
