"""Compare an artifact with unpatched eager transformers."""

from reformer_export.parity.verify import Case, CaseResult, VerifyResult, default_cases, verify_artifact

__all__ = ["Case", "CaseResult", "VerifyResult", "default_cases", "verify_artifact"]
