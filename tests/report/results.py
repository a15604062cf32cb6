"""Small results of every kind, as the library returns them."""

from __future__ import annotations

from pathlib import Path

from reformer_export.measure.accuracy import AccuracyResult, AccuracyRow
from reformer_export.measure.contenders import Setup
from reformer_export.measure.drift_result import DriftBits, DriftPoint, DriftResult
from reformer_export.measure.machine import MeasuredOn
from reformer_export.measure.memory import Memory
from reformer_export.measure.run import BenchmarkOptions, BenchmarkResult, Measurement
from reformer_export.parity.cases import Case
from reformer_export.parity.compare import LayerAgreement
from reformer_export.parity.decoding_cases import DecodingCase, Row
from reformer_export.parity.decoding_results import Check, DecodingResult, Finding
from reformer_export.parity.results import CaseResult, VerifyResult

ACCURACY = AccuracyResult(
    (AccuracyRow(1, 2.0, 2.88539, 5432.1, 1023), AccuracyRow(4, 1.0, 1.4427, 1234.5, 1023)), 1024, 1, 1030
)


MACHINE = MeasuredOn("a CPU", 2, 1, "2026-11-26 09:30")


def make_case(flips: int = 0, unexplained: int = 0, margin: float = 0.0, error: float = 1e-6) -> CaseResult:
    """A case of 64 tokens, 1,800 hashes in layer 1; each flip has the margin `margin`."""
    agreement = LayerAgreement(1, 1800, flips, unexplained, margin, (margin,) * flips)
    return CaseResult(Case(64, 1, masked=True), error, 5e-5, (agreement,), free_error=2e-6)


def make_sweep(*cases: CaseResult) -> VerifyResult:
    """A case that passes, and `cases`."""
    return VerifyResult("onnxruntime CPU", "float32", (make_case(), *cases), "float32")


def make_finding(
    check: Check = "around", error: float = 1e-6, layer: int | None = None, unexplained: int = 0
) -> Finding:
    """Of the row 1 of two, at 65 tokens; of an operator where a layer is given."""
    case, what = DecodingCase((Row(62, 4), Row(63, 4, 2))), "" if layer is None else "LSHAttentionStep"
    flips = (LayerAgreement(1, 130, unexplained, unexplained, 0.25 if unexplained else 0.0),)
    return Finding(check, case, 1, 65, error, 5e-6, layer, what, () if layer else flips)


def make_decoding(*findings: Finding) -> DecodingResult:
    """One of each kind that passes, and `findings`."""
    sound = [make_finding("operator", layer=1), *(make_finding(x) for x in ("prompt", "batch", "around"))]
    return DecodingResult("ONNX Runtime, CPU, function bodies", "float32", (*sound, *findings))


def make_drift(parted: bool = False) -> DriftResult:
    """Of a text of two sequences, the points of one with another token first."""
    points = [
        DriftPoint(number, length, length / 100, length / 1000, 2.0, not (parted and number), 1.0, 1.1, 1.2)
        for number in (0, 1)
        for length in range(8, 60)
    ]
    return DriftResult("text.txt", 64, tuple(points), False, DriftBits(104, 1.4681, 1.4682, 1.4683))


def make_benchmark(out: Path, *eager_seconds: float, memory: bool = True) -> BenchmarkResult:
    """The artifact `out`, a second at 64 and at 1,024 tokens, beside eager where its seconds are given."""
    setups = [Setup("artifact", str(out), {}), *([Setup("eager", str(out), {})] if eager_seconds else [])]
    seconds = {"artifact": (1.0, 1.0), "eager": eager_seconds}
    peak = Memory(2 * 10**6, 12 * 10**6, "peak resident memory") if memory else None
    measurements = tuple(
        Measurement(1, length, setup.name, (seconds[setup.name][index],) * 3, peak)
        for index, length in enumerate((64, 1024))
        for setup in setups
    )
    options = BenchmarkOptions((64, 1024), repeat=3)
    return BenchmarkResult(tuple(setups), options, measurements, MACHINE, ("a note",))
