"""Compare an artifact with unpatched eager transformers."""

from reformer_export.parity.cases import Case, add_num_hashes_cases, choose_cases, default_cases
from reformer_export.parity.details import collect_details
from reformer_export.parity.results import CaseResult, VerifyResult
from reformer_export.parity.sweep import verify_artifact

__all__ = [
    "Case",
    "CaseResult",
    "VerifyResult",
    "add_num_hashes_cases",
    "choose_cases",
    "collect_details",
    "default_cases",
    "verify_artifact",
]
