"""decode.onnx on a page: what was judged of it, and how it drifts from whole passes."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reformer_export.report.figures import Drawing, draw, paint_drift
from reformer_export.report.page import Section
from reformer_export.report.tables import decoding_parity_table

if TYPE_CHECKING:
    from reformer_export.measure.drift_result import DriftResult
    from reformer_export.parity.decoding_results import DecodingResult

MAX_TOLD: Final = 5
"""Failures in words; the JSON has all."""


def decoding_section(folder: Path, decoding: DecodingResult, drift: DriftResult | None) -> Section:
    """A page's section on it."""
    text = (
        "decode.onnx continues a sequence token by token, and a step has no twin in model.onnx: what earlier "
        "tokens left stays as it is. So each part is judged by what defines it: prompts by model.onnx; the "
        "attention operators of the steps by the same operators over all tokens; the rest of a step by "
        "model.onnx on the attention that the step gave; rows of a batch by each alone."
    )
    failures = [f"{finding.describe()}." for finding in decoding.failed[:MAX_TOLD]]
    more = len(decoding.failed) - MAX_TOLD
    failures += [f"And {more} more."] if more > 0 else []
    drawings = [] if drift is None or not drift.points else [draw_drift(drift)]
    told = [] if drift is None else [f"{drift.describe()}."]
    return Section(
        "decoding", "Decoding", [text, *failures, *told], drawings, [decoding_parity_table(folder, decoding)]
    )


def draw_drift(drift: DriftResult) -> Drawing:
    """The difference of the logits over the position, over all sequences."""
    points = sorted(drift.points, key=lambda point: point.length)
    curves = {
        "largest of the vocabulary": [(float(point.length), point.largest) for point in points],
        "typical (median)": [(float(point.length), point.typical) for point in points],
    }
    parted = [point.length for point in points if not point.agrees]
    spread = statistics.median(point.spread for point in points)
    quarter = points[-max(1, len(points) // 4) :]
    told = (
        f"Typical difference {statistics.median(point.typical for point in quarter):.2g} in the last quarter "
        f"of the positions, largest anywhere {drift.largest:.2g}, where logits differ by {spread:.2g} among "
        f"themselves; another token comes first at {len(parted)} of {len(points)} positions."
    )
    title = "Decoding beside a whole pass over the same tokens"
    return draw("drift", title, told, paint_drift, curves, spread, parted)
