"""A comparison with eager as a page: is it the same model, and where is it not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reformer_export.parity.compare import LayerAgreement
from reformer_export.parity.hashing import MARGIN_EDGES
from reformer_export.report.decoding_section import MAX_TOLD, decoding_section
from reformer_export.report.figures import (
    Drawing,
    draw,
    paint_heat_map,
    paint_margins,
    paint_pattern,
    paint_series,
)
from reformer_export.report.page import Page, Section, Verdict
from reformer_export.report.tables import (
    Columns,
    accuracy_table,
    cost_table,
    make_facts,
    make_table,
    sweep_table,
)
from reformer_export.report.verify_report import BisectReport, DataAccuracy, VerifyReport
from reformer_export.spec import DType

if TYPE_CHECKING:
    from reformer_export.parity.constants import ConstantsResult
    from reformer_export.parity.cost import CostResult
    from reformer_export.parity.details import Details
    from reformer_export.parity.hashing import AttentionPattern, MarginHistogram
    from reformer_export.parity.results import VerifyResult

SMALLER_TYPES: Final[tuple[DType, ...]] = ("float16", "bfloat16")


def page_from_verify(report: VerifyReport) -> Page:
    """A page on the first runtime of a comparison."""
    runtime, details = report.runtimes[0], report.details
    sweep, decoding = runtime.sweep, runtime.decoding
    sections = [
        *([_bisect_section(report.bisect)] if report.bisect else []),
        _errors_section(sweep),
        *([_layers_section(details)] if details and details.layers else []),
        *([_hashing_section(sweep, details)] if details and details.margins else []),
        *([_pattern_section(details, details.pattern)] if details and details.pattern else []),
        *([_accuracy_section(runtime.accuracy)] if runtime.accuracy else []),
        *([_cost_section(runtime.cost)] if runtime.cost else []),
        *([decoding_section(report.folder, decoding, runtime.drift)] if decoding else []),
        *([_constants_section(report.constants)] if report.constants else []),
        Section("cases", "Every input", [f"{sweep.rule()}."], tables=[sweep_table(report.folder, sweep)]),
        Section(
            "manifest",
            "The artifact",
            [f"Runtime: {sweep.runtime}. Type of the weights: {report.manifest.precision}."],
            manifest=report.manifest,
        ),
    ]
    return Page(f"Is {report.folder} the same model?", sections, _verdict(report))


def _verdict(report: VerifyReport) -> Verdict:
    """The wrong node where one was named: what differs after it may be its consequence."""
    sweep, named = report.runtimes[0].sweep, report.bisect and report.bisect.result.named
    low_precision = report.manifest.low_precision
    worst = sweep.worst
    inputs = f"{len(sweep.failed)} of {len(sweep.cases)} inputs fail"
    if named:
        follow = f"{inputs}; what differs after this node, flips too, may be its consequence."
        agree = "Every output agrees all the same: it weighs little on these inputs."
        reason = f"On eager's own inputs: {named.describe()}. {agree if sweep.passed else follow}"
        return Verdict(False, f"No: the node {named.node} is wrong", reason)
    if report.constants and report.has_wrong_constants:
        follow = "The outputs agree within their tolerance all the same."
        follow = follow if sweep.passed else f"{inputs}, which may be its consequence."
        return Verdict(False, "No: it stores other weights", f"{report.constants.verdict()}. {follow}")
    decoding = report.runtimes[0].decoding
    if sweep.passed and decoding is not None and not decoding.passed:
        return Verdict(False, "No: decode.onnx differs", f"model.onnx agrees. {decoding.verdict()}.")
    if sweep.passed:
        flips, hashed = (sum(getattr(case, name) for case in sweep.cases) for name in ("flips", "hashed"))
        rate = f"{flips:,} of {hashed:,} hashes fell into another bucket ({sweep.flip_rate:.3%})"
        weights = "" if low_precision is None else f", with {low_precision}"
        rounding = weights and " that rounds as it does"
        reason = (
            f"{len(sweep.cases)} inputs compared with eager{rounding}; with eager's buckets the difference "
            f"nearest to its limit is {worst.pinned_error:.1e}, where {worst.tolerance:.1e} is allowed; "
            + rate
            + (f", each within the rounding of {sweep.precision}." if flips else ".")
            + ("" if decoding is None else " decode.onnx, which continues a sequence, agrees with it.")
            + ("" if report.constants is None else " Its weights are the checkpoint's, bit for bit.")
        )
        return Verdict(True, f"Yes: it is the same model{weights}", reason)
    error = f"The largest: {worst.pinned_error:.1e}, where {worst.tolerance:.1e} is allowed."
    find = (
        "" if report.bisect else " `reformer-export verify --bisect DIR` names the first node that differs."
    )
    return Verdict(False, "No: it differs", f"{inputs}: {sweep.explain_failure()}. {error}{find}")


def _bisect_section(bisect: BisectReport) -> Section:
    paragraphs = [f"{bisect.result.verdict()}."]
    if bisect.replay is not None:
        paragraphs.append(f"Run just that node again, on eager's values, with: {bisect.replay}")
    return Section("bisect", "Which node differs", paragraphs)


def _errors_section(sweep: VerifyResult) -> Section:
    cases = sweep.cases
    series = {
        "pinned (eager's buckets)": [(float(case.case.length), case.pinned_error) for case in cases],
        "free (own buckets)": [(float(case.case.length), case.free_error) for case in cases],
        "tolerance": [(float(case.case.length), case.tolerance) for case in cases],
    }
    flipped = sum(case.flips > 0 for case in cases)
    text = (
        "Pinned: both use eager's buckets, so this judges the arithmetic. Free: the artifact hashes for "
        "itself; where a hash flips, chunk borders move for later tokens, and a large difference there "
        f"says nothing about the arithmetic. {sweep.rule()}."
    )
    told = (
        f"Worst pinned difference {sweep.worst.pinned_error:.1e}, where {sweep.worst.tolerance:.1e} is "
        f"allowed; largest free difference {max(case.free_error for case in cases):.1e}; a hash flipped in "
        f"{flipped} of {len(cases)} inputs."
    )
    axes = ("length (tokens)", "largest difference")
    drawing = draw("errors", "Largest difference of each input", told, paint_series, *axes, series, "none")
    notes = [f"{note}." for note in sweep.notes]
    return Section("errors", "Difference from eager", [text, *notes], [drawing])


def _cost_section(cost: CostResult) -> Section:
    text = (
        "The original is eager in float32, as the checkpoint has it; the artifacts hash and round for "
        "themselves. Nothing here is judged: it says what a smaller or faster artifact loses."
    )
    return Section("cost", "What low precision costs", [text], tables=[cost_table(cost)])


def _constants_section(constants: ConstantsResult) -> Section:
    text = (
        "Weights, scales, biases and rotations in the files, bit by bit, beside what the exporter makes of "
        "the checkpoint: a tolerance on outputs can hide a weight that is off by a step."
    )
    told = [f"{each.describe()}." for each in constants.wrong[:MAX_TOLD]]
    return Section("constants", "What is stored", [text, f"{constants.verdict()}.", *told[1:]])


def _layers_section(details: Details) -> Section:
    shares = {(error.point.role, error.point.layer): error.share for error in details.layers}
    points = list(dict.fromkeys(point for point, _ in shares))
    kinds = {layer: details.kind_of(layer) for layer in sorted({layer or 0 for _, layer in shares})}
    (point, layer), worst = max(shares.items(), key=lambda item: item[1])
    text = (
        "The largest pinned difference inside the model, as a share of what is tolerated there: the scale "
        "ends at 1, which is the limit, and what is beyond is red. A difference in one layer is in all that "
        "follow."
    )
    drawing = draw(
        "layers",
        "Difference in each layer",
        f"Layers: {len(kinds)}; the largest share is {worst:.2g}, at the {point} of layer "
        f"{details.name_of(layer)}.",
        paint_heat_map,
        points,
        [f"{number} ({kind})" for number, kind in kinds.items()],
        [[shares.get((point, number), 0.0) for number in kinds] for point in points],
        "share of the tolerance",
    )
    names = make_facts("The layers", [(str(layer), name) for layer, name in details.names.items()])
    return Section("layers", "Layer by layer", [text], [drawing], [names] if details.names else [])


HASHING: Final[Columns[tuple[str, MarginHistogram, LayerAgreement]]] = {
    "layer": lambda row: row[0],
    "hashes": lambda row: f"{row[2].hashed:,}",
    "same bucket": lambda row: f"{1 - row[2].flips / row[2].hashed:.4%}" if row[2].hashed else None,
    "flips": lambda row: row[2].flips,
    "unexplained": lambda row: row[2].unexplained,
    "misplaced": lambda row: row[2].misplaced,
    "float16 could move": lambda row: f"{row[1].below['float16']:.2%}",
    "bfloat16 could move": lambda row: f"{row[1].below['bfloat16']:.2%}",
}


def _hashing_section(sweep: VerifyResult, details: Details) -> Section:
    rows = [
        (details.name_of(margins.layer), margins, _sum_agreements(sweep, margins.layer))
        for margins in details.margins
    ]
    text = (
        "A hash picks the greatest of many scores. Its margin is how far the second was behind. A flip "
        "is explained when its margin is within the rounding of the artifact's type. One that is not means "
        "either that the file hashes otherwise, as with other rotations (misplaced), or that the vector "
        "which it hashed was already wrong: a consequence. The last columns help to choose a type: the share "
        "of tokens that rounding to float16 or bfloat16 could move to another bucket."
    )
    caption = "Agreement of the buckets, and tokens that a smaller type could move"
    drawings = [_draw_margins(*row, details.limit) for row in rows]
    return Section("hashing", "Hashing", [text], drawings, [make_table(caption, HASHING, rows)])


def _sum_agreements(sweep: VerifyResult, layer: int) -> LayerAgreement:
    """How the layer's buckets agree with eager's over all cases."""
    found = [
        agreement
        for case in sweep.cases
        for agreement in case.layers
        if (agreement.layer, agreement.kind) == (layer, "hashes")
    ]
    return LayerAgreement(
        layer,
        sum(agreement.hashed for agreement in found),
        sum(agreement.flips for agreement in found),
        sum(agreement.unexplained for agreement in found),
        max((agreement.worst_margin for agreement in found), default=0.0),
        tuple(margin for agreement in found for margin in agreement.flip_margins),
        sum(agreement.misplaced for agreement in found),
    )


def _draw_margins(name: str, margins: MarginHistogram, agreement: LayerAgreement, limit: float) -> Drawing:
    flips = [(margin, margin <= limit) for margin in agreement.flip_margins]
    return draw(
        f"margins-{margins.layer}",
        f"Margins of the hashes in layer {name}",
        f"Bars: {sum(margins.counts):,} hashes of one input. Ticks: {_count(agreement.flips, 'flip')} among "
        f"the {agreement.hashed:,} hashes of every input, {agreement.unexplained:,} of them unexplained. "
        f"Within the rounding of float16: {margins.below['float16']:.2%} of the tokens; of bfloat16: "
        f"{margins.below['bfloat16']:.2%}.",
        paint_margins,
        MARGIN_EDGES,
        margins.counts,
        flips,
        {dtype: margins.roundings[dtype] for dtype in SMALLER_TYPES},
    )


def _count(number: int, word: str) -> str:
    """1 flip, 2 flips."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _pattern_section(details: Details, pattern: AttentionPattern) -> Section:
    pairs, memory = sum(count > 0 for row in pattern.listed for count in row), pattern.num_memory_keys
    learned = f" The first {memory} keys are the layer's learned memory." if memory else ""
    text = (
        f"Layer {details.name_of(pattern.layer)}, head {pattern.head}, one input of {pattern.length} "
        f"tokens.{learned} Left: the bucket of each token. Middle: the pairs that LSH attention looks at. "
        "Right: the weight that full attention would give them, which is what hashing tries to find."
    )
    told = (
        f"LSH attention looks at {pairs / pattern.length / (pattern.length + memory):.1%} of all pairs; "
        f"they hold {pattern.covered:.1%} of full attention's weight."
    )
    values = (pattern.buckets, pattern.attention, pattern.listed)
    drawing = draw("pattern", "Buckets, chosen pairs, full attention", told, paint_pattern, *values)
    return Section("pattern", "What hashing chose", [text], [drawing])


def _accuracy_section(data: DataAccuracy) -> Section:
    accuracy, rows = data.accuracy, data.accuracy.rows
    least, most = rows[0], rows[-1]
    told = (
        f"From {least.num_hashes} to {most.num_hashes} hashes: {least.bits_per_character:.4f} to "
        f"{most.bits_per_character:.4f} bits per character, {least.tokens_per_second:,.0f} to "
        f"{most.tokens_per_second:,.0f} tokens a second."
    )
    curves = {
        "Bits per character": [(float(row.num_hashes or 0), row.bits_per_character) for row in rows],
        "Tokens a second": [(float(row.num_hashes or 0), row.tokens_per_second) for row in rows],
    }
    drawings = [
        draw(
            f"accuracy-{name.split()[0].lower()}",
            name,
            told,
            paint_series,
            "hashes",
            name.lower(),
            {name.lower(): curve},
        )
        for name, curve in curves.items()
        if len(rows) > 1
    ]
    length = f"{accuracy.sequence_length:,} tokens"
    text = f"On {data.name}, {accuracy.characters:,} characters, in sequences of {length}."
    return Section("accuracy", "Accuracy against speed", [text], drawings, [accuracy_table(data)])
