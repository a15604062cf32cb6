"""Compare an artifact with unpatched eager transformers."""

from reformer_export.parity.eager import silence_transformers
from reformer_export.parity.report import render_report
from reformer_export.parity.verify import (
    Case,
    CaseResult,
    VerifyResult,
    choose_cases,
    default_cases,
    verify_artifact,
)

__all__ = [
    "Case",
    "CaseResult",
    "VerifyResult",
    "choose_cases",
    "default_cases",
    "render_report",
    "silence_transformers",
    "verify_artifact",
]
