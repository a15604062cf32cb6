"""decode.onnx in a comparison: judged against what defines it, and its drift from whole passes reported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reformer_export.measure.accuracy import TokenText
from reformer_export.measure.drift import count_drift_passes, measure_drift
from reformer_export.measure.drift_result import DriftResult
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.workflows.progress import Progress

if TYPE_CHECKING:
    from reformer_export.parity.decoding_results import DecodingResult
    from reformer_export.parity.session import ParitySession
    from reformer_export.workflows.verify_request import VerifyRequest


def has_decoding(session: ParitySession) -> bool:
    """Whether the session's runtime decodes by the artifact's decode.onnx: ONNX Runtime does."""
    return session.manifest.decode is not None and isinstance(session.runtime, OnnxRuntime)


def compare_decoding(session: ParitySession, request: VerifyRequest, progress: Progress) -> DecodingResult:
    """Judge decode.onnx at the request's lengths and numbers of hashes."""
    from reformer_export.parity.decoding import check_decoding
    from reformer_export.parity.decoding_cases import choose_decoding_cases

    cases = choose_decoding_cases(session.manifest, request.lengths, request.num_hashes)
    with progress("Compared cases of decode.onnx", len(cases)) as advance:
        return check_decoding(session, cases, request.given_tolerance, lambda _case: advance(1))


def report_drift(
    session: ParitySession, request: VerifyRequest, text: TokenText | None, progress: Progress
) -> DriftResult:
    """Decode `text`, that of `request.data`, or one of the model's own, beside whole passes."""
    name = None if request.data is None else Path(request.data).name
    passes = count_drift_passes(session.runtime, text, request.data_length)
    with progress("Whole passes beside decoding", passes) as advance:
        return measure_drift(session.runtime, text, name, request.data_length, session.seed, on_pass=advance)
