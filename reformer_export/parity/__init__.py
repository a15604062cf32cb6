"""Compare an artifact with unpatched eager transformers."""

from reformer_export.parity.cases import Case, add_dial_cases, choose_cases, default_cases
from reformer_export.parity.details import collect_details
from reformer_export.parity.eager import silence_transformers
from reformer_export.parity.graph_parts import Execution
from reformer_export.parity.results import CaseResult, VerifyResult
from reformer_export.parity.verify import verify_artifact

__all__ = [
    "Case",
    "CaseResult",
    "Execution",
    "VerifyResult",
    "add_dial_cases",
    "choose_cases",
    "collect_details",
    "default_cases",
    "silence_transformers",
    "verify_artifact",
]
