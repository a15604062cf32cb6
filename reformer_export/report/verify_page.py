"""`verify --json` as a page: is it the same model, and where is it not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from reformer_export.report.figures import (
    Drawing,
    draw_heat_map,
    draw_lines,
    draw_margins,
    draw_pattern,
    draw_points,
)
from reformer_export.report.page import Page, Section, Table, Verdict

SMALLER_TYPES: Final = ("float16", "bfloat16")

CASE_COLUMNS: Final = (
    *("case", "pinned error", "tolerance", "hashes", "flips", "unexplained", "free error", "passed"),
)


def page_from_verify(report: dict[str, Any]) -> Page:
    """A page from the JSON of `verify --report` on one runtime."""
    details = report.get("details") or {}
    sections = [
        *([_bisect_section(report["bisect"])] if report.get("bisect") else []),
        _errors_section(report),
        *([_layers_section(details["layers"])] if details.get("layers") else []),
        *([_hashing_section(report, details["margins"])] if details.get("margins") else []),
        *([_pattern_section(details["pattern"])] if details.get("pattern") else []),
        *([_hashes_section(report["dial"])] if report.get("dial") else []),
        _cases_section(report),
        Section(
            "manifest",
            "The artifact",
            [f"Runtime: {report['runtime']}. Type of the weights: {report['dtype']}."],
            details_title="manifest.json",
            details=json.dumps(report["manifest"], indent=2),
        ),
    ]
    return Page(f"Is {report['artifact']} the same model?", sections, _verdict(report))


def _verdict(report: dict[str, Any]) -> Verdict:
    rate = (
        f"{report['flips']} of {report['hashed']} hashes fell into another bucket ({report['flip_rate']:.3%})"
    )
    if report["passed"]:
        reason = (
            f"{report['num_cases']} inputs compared with eager; with eager's buckets the largest difference "
            f"is {report['max_pinned_error']:.1e}; {rate}, each within the rounding of {report['dtype']}."
        )
        return Verdict(True, "Yes: it is the same model", reason)
    failed = [case for case in report["cases"] if not case["passed"]]
    unexplained = report["unexplained_flips"]
    why = (
        f"{unexplained} hashes fell into another bucket although the choice was clear: other rotations or "
        "another projection, not noise"
        if unexplained
        else "the arithmetic differs by more than rounding"
    )
    return Verdict(False, "No: it differs", f"{len(failed)} of {report['num_cases']} inputs fail: {why}.")


def _case_name(case: dict[str, Any]) -> str:
    masked = ", masked" if case["case"]["masked"] else ""
    hashes = case["case"].get("num_hashes")
    rounds = f", {hashes} hashes" if hashes else ""
    return f"{case['case']['batch']} x {case['case']['length']}{masked}{rounds}"


def _bisect_section(bisect: dict[str, Any]) -> Section:
    replay = bisect.get("replay")
    paragraphs = [f"{bisect['verdict']}."]
    if replay is not None:
        paragraphs.append(f"Run just that node again, on eager's values, with: {replay}")
    return Section("bisect", "Which node differs", paragraphs)


def _errors_section(report: dict[str, Any]) -> Section:
    series = {
        label: [(float(case["case"]["length"]), float(case[name] or 0)) for case in report["cases"]]
        for name, label in (
            ("pinned_error", "pinned (eager's buckets)"),
            ("free_error", "free (own buckets)"),
            ("tolerance", "tolerance"),
        )
    }
    flipped = sum(case["flips"] > 0 for case in report["cases"])
    return Section(
        "errors",
        "Difference from eager",
        [
            "Pinned: both use eager's buckets, so this judges the arithmetic. Free: the artifact hashes for "
            "itself; where a hash flips, chunk borders move for later tokens, and a large difference there "
            "says nothing about the arithmetic."
        ],
        [
            draw_points(
                "errors",
                "Largest difference of each input",
                f"Largest pinned difference {report['max_pinned_error']:.1e}, largest free difference "
                f"{report['max_free_error']:.1e}; a hash flipped in {flipped} of "
                f"{report['num_cases']} inputs.",
                "length (tokens)",
                "largest difference",
                series,
            )
        ],
    )


def _layers_section(layers: Sequence[dict[str, Any]]) -> Section:
    points = list(dict.fromkeys(row["point"] for row in layers))
    numbers = sorted({row["layer"] for row in layers})
    shares = {(row["point"], row["layer"]): row["error"] / row["tolerance"] for row in layers}
    kinds = {row["layer"]: row["kind"] for row in layers}
    worst = max(layers, key=lambda row: row["error"] / row["tolerance"])
    return Section(
        "layers",
        "Layer by layer",
        [
            "The largest pinned difference inside the model, as a share of what is tolerated there: above 1 "
            "it fails. A difference in one layer is in all that follow."
        ],
        [
            draw_heat_map(
                "layers",
                "Difference in each layer",
                f"Layers: {len(numbers)}; the largest share is {worst['error'] / worst['tolerance']:.2g}, at "
                f"the {worst['point']} of layer {worst['layer']}.",
                points,
                [f"{number} ({kinds[number]})" for number in numbers],
                [[shares.get((point, number), 0.0) for number in numbers] for point in points],
                "share of the tolerance",
            )
        ],
    )


def _hashing_section(report: dict[str, Any], margins: Sequence[dict[str, Any]]) -> Section:
    drawings, rows = [], []
    for layer in margins:
        flips = [
            (margin, margin <= layer["limit"])
            for case in report["cases"]
            for agreement in case["layers"]
            if agreement["layer"] == layer["layer"]
            for margin in agreement["flip_margins"]
        ]
        drawings.append(_margins_drawing(layer, flips))
        agreements = [a for case in report["cases"] for a in case["layers"] if a["layer"] == layer["layer"]]
        hashed, flipped = sum(a["hashed"] for a in agreements), sum(a["flips"] for a in agreements)
        agreement = f"{1 - flipped / hashed:.4%}" if hashed else "-"
        shares = [f"{layer['below'][dtype]:.2%}" for dtype in SMALLER_TYPES]
        unexplained = sum(a["unexplained"] for a in agreements)
        rows.append((str(layer["layer"]), f"{hashed:,}", agreement, str(flipped), str(unexplained), *shares))
    columns = ("layer", "hashes", "same bucket", "flips", "unexplained")
    return Section(
        "hashing",
        "Hashing",
        [
            "A hash picks the greatest of many scores. Its margin is how far the second was behind. A flip "
            "is explained when its margin is within the rounding of the artifact's type; one that is not "
            "means other rotations or another projection. The last columns help to choose a type: the share "
            "of tokens that rounding to float16 or bfloat16 could move to another bucket."
        ],
        drawings,
        [
            Table(
                "Agreement of the buckets, and tokens that a smaller type could move",
                (*columns, "float16 could move", "bfloat16 could move"),
                rows,
            )
        ],
    )


def _margins_drawing(layer: dict[str, Any], flips: list[tuple[float, bool]]) -> Drawing:
    unexplained = sum(not explained for _, explained in flips)
    return draw_margins(
        f"margins-{layer['layer']}",
        f"Margins of the hashes in layer {layer['layer']}",
        f"{sum(layer['counts']):,} hashes; {len(flips)} flips, {unexplained} of them unexplained. "
        f"Within the rounding of float16: {layer['below']['float16']:.2%} of the tokens; of bfloat16: "
        f"{layer['below']['bfloat16']:.2%}.",
        layer["edges"],
        layer["counts"],
        flips,
        {dtype: layer["roundings"][dtype] for dtype in SMALLER_TYPES},
    )


def _pattern_section(pattern: dict[str, Any]) -> Section:
    pairs = sum(count > 0 for row in pattern["listed"] for count in row)
    share = pairs / pattern["length"] ** 2
    return Section(
        "pattern",
        "What hashing chose",
        [
            f"Layer {pattern['layer']}, head {pattern['head']}, one input of {pattern['length']} tokens. "
            "Left: the bucket of each token. Middle: the pairs that LSH attention looks at. Right: the "
            "weight that full attention would give them, which is what hashing tries to find."
        ],
        [
            draw_pattern(
                "pattern",
                "Buckets, chosen pairs, full attention",
                f"LSH attention looks at {share:.1%} of all pairs; they hold {pattern['covered']:.1%} of "
                "full attention's weight.",
                pattern["buckets"],
                pattern["attention"],
                pattern["listed"],
            )
        ],
    )


def _hashes_section(runtime_num_hashes: dict[str, Any]) -> Section:
    rows = runtime_num_hashes["rows"]
    most = rows[-1]
    least = rows[0]
    told = (
        f"From {least['num_hashes']} to {most['num_hashes']} hashes: {least['bits_per_character']:.4f} to "
        f"{most['bits_per_character']:.4f} bits per character, {least['tokens_per_second']:,.0f} to "
        f"{most['tokens_per_second']:,.0f} tokens a second."
    )
    drawings = [
        draw_lines(
            f"dial-{name.replace('_', '-')}",
            title,
            told,
            "hashes",
            title.lower(),
            {title.lower(): [(float(row["num_hashes"]), row[name]) for row in rows]},
        )
        for name, title in (
            ("bits_per_character", "Bits per character"),
            ("tokens_per_second", "Tokens a second"),
        )
    ]
    table = [
        (
            str(row["num_hashes"]),
            f"{row['loss']:.4f}",
            f"{row['bits_per_character']:.4f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['tokens']:,}",
        )
        for row in rows
    ]
    columns = ("hashes", "next-token loss (nats)", "bits per character", "tokens/s", "tokens")
    return Section(
        "dial",
        "Accuracy against speed",
        [
            f"On {runtime_num_hashes['data']}, {runtime_num_hashes['characters']:,} characters, in "
            "sequences of "
            f"{runtime_num_hashes['sequence_length']:,} tokens."
        ],
        drawings if len(rows) > 1 else [],
        [Table("What each number of hashes gives and costs", columns, table)],
    )


def _cases_section(report: dict[str, Any]) -> Section:
    rows = [
        (
            _case_name(case),
            f"{case['pinned_error'] or 0:.1e}",
            f"{case['tolerance']:.1e}",
            f"{case['hashed']:,}" if "hashed" in case else str(sum(a["hashed"] for a in case["layers"])),
            str(case["flips"]),
            str(sum(a["unexplained"] for a in case["layers"])),
            f"{case['free_error'] or 0:.1e}",
            "ok" if case["passed"] else "FAILED",
        )
        for case in report["cases"]
    ]
    return Section("cases", "Every input", tables=[Table("Inputs: batch x tokens", CASE_COLUMNS, rows)])
