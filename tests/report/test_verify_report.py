from __future__ import annotations

from pathlib import Path
from typing import Any

from reformer_export.parity.bisect import BisectResult
from reformer_export.parity.cases import Case
from reformer_export.parity.constants import ConstantsResult, WrongConstant
from reformer_export.parity.details import Details
from reformer_export.report.verify_report import BisectReport, DataAccuracy, RuntimeReport, VerifyReport
from tests.artifact.test_manifest import make_manifest
from tests.report.results import ACCURACY, make_case, make_decoding, make_drift, make_finding, make_sweep

FOUND = BisectResult(Case(64, 1, masked=False), None, None, None, None)
GOOD, BAD = RuntimeReport(make_sweep(), None), RuntimeReport(make_sweep(make_case(error=1.0)), None)


def make_report(*runtimes: RuntimeReport, **more: Any) -> VerifyReport:
    return VerifyReport(Path("out"), make_manifest(files={"model.onnx": "a" * 64}), runtimes, **more)


def test_one_runtime_in_json() -> None:
    values = make_report(RuntimeReport(GOOD.sweep, DataAccuracy("text.txt", 4, ACCURACY))).to_dict()
    dial = values.pop("dial")
    assert values == {"artifact": "out", "model_sha256": "a" * 64, **GOOD.sweep.to_dict()}
    assert dial == {"data": "text.txt", "max_hashes": 4, **ACCURACY.to_dict()}


def test_several_runtimes_in_json() -> None:
    values = make_report(GOOD, BAD).to_dict()
    assert set(values) == {"artifact", "model_sha256", "runtimes"}
    assert [run["passed"] for run in values["runtimes"]] == [True, False]


def test_what_was_found_inside_in_json() -> None:
    details, bisect = Details((), (), None, 0.5), BisectReport(FOUND, Path("DIR"), "replay DIR")
    values = make_report(GOOD, details=details, bisect=bisect).to_dict()
    assert values["details"] == {"layers": [], "margins": [], "pattern": None}
    assert values["manifest"] == make_manifest(files={"model.onnx": "a" * 64}).to_dict()
    assert values["bisect"] == FOUND.to_dict() | {"replay": "replay DIR"}


def test_the_verdict() -> None:
    assert make_report(GOOD, GOOD).passed
    report = make_report(GOOD, BAD)
    assert (report.passed, report.names_node, report.failed) == (False, False, [BAD.sweep])
    assert [line[:6] for line in report.verdict().splitlines()] == ["Passed", "FAILED"]


def test_a_search_in_lines() -> None:
    assert BisectReport(FOUND, Path("DIR"), None).lines() == ("No node differs (batch 1, length 64).",)
    _, inputs, command = BisectReport(FOUND, Path("DIR"), "replay DIR").lines()
    assert ("are in DIR;" in inputs, command) == (True, "  replay DIR")


def test_decoding_in_json() -> None:
    decoding, drift = make_decoding(), make_drift()
    values = make_report(RuntimeReport(make_sweep(), None, decoding, drift)).to_dict()
    assert values["decoding"] == decoding.to_dict() | {"drift": drift.to_dict()}
    assert values["passed"]
    assert len(values["decoding"]["drift"]["points"]) == 104
    without = make_report(RuntimeReport(make_sweep(), None, decoding)).to_dict()
    assert without["decoding"] == decoding.to_dict()


def test_wrong_constants_fail_the_report() -> None:
    wrong = WrongConstant("model.onnx", "lm_head.decoder.weight", "1 of 6 numbers differ", "3 there")
    report = make_report(BAD, constants=ConstantsResult(9, (wrong,)))
    assert not report.passed
    assert not make_report(GOOD, constants=report.constants).passed
    first, second = report.failures()
    assert first == (
        "FAILED: 1 of 9 constants are not what the checkpoint gives; lm_head.decoder.weight in model.onnx: "
        "got 1 of 6 numbers differ, expected 3 there; export the checkpoint again"
    )
    assert second == BAD.sweep.verdict()
    assert report.verdict().splitlines() == [second, first]
    assert report.to_dict()["constants"] == {
        "passed": False,
        "compared": 9,
        "wrong": [vars(wrong)],
        "computed": [],
    }
    sound = make_report(GOOD, constants=ConstantsResult(9, (), ("lm_head.decoder.weight",)))
    assert (sound.passed, sound.failures()) == (True, [])
    assert sound.verdict().endswith("but for the last place of lm_head.decoder.weight")


def test_a_decoding_that_fails_fails_the_report() -> None:
    failing = make_decoding(make_finding("around", 1.0), make_finding("operator", 1e-3, 3))
    report = make_report(RuntimeReport(make_sweep(), None, failing, make_drift()))
    assert (report.passed, report.failed, report.failed_decoding) == (False, [], [failing])
    (line,) = report.failures()
    assert line == (
        "FAILED: 2 of 6 comparisons of decode.onnx; operators of steps, by whole ones: LSHAttentionStep, "
        "layer 3, 65 tokens (row 1 of rows of 62+4, 63+4 tokens): error 1.0e-03, tolerance 5.0e-06"
    )
    assert [each[:6] for each in report.verdict().splitlines()] == ["Passed", "FAILED"]
    flipped = make_decoding(make_finding("prompt", unexplained=4)).verdict()
    assert (
        "buckets of layer 1 in 65 tokens (row 1 of rows of 62+4, 63+4 tokens): 4 unexplained flips" in flipped
    )


def test_what_was_compared_is_said() -> None:
    assert make_decoding().verdict() == (
        "Passed: decode.onnx, 1 prompts, 1 operators of steps, 1 rows of batches, 1 rests of steps; worst: "
        "LSHAttentionStep, layer 1, 65 tokens (error 1.0e-06, tolerance 5.0e-06); 0 of 390 hashes flipped"
    )
