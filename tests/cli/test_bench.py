from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import transformers

from reformer_export.measure import contenders, run
from reformer_export.measure.memory import KILLED, OF_THE_PASS, PassFailedError
from reformer_export.workflows import bench as workflow
from tests.cli.program import Outcome, run_program
from tests.hf_models import config_t, save_model

QUICK = ("--lengths", "9,20", "--batch-sizes", "2", "--repeat", "4", "--warm-up", "1", "--threads", "1")
NAMES = ["artifact", "eager", "full-attention"]
ON_LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of configuration T, `ReformerModelWithLMHead`, and its artifact `out`."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_model(folder, config_t(is_decoder=True), transformers.ReformerModelWithLMHead)
    outcome = run_program("onnx", checkpoint, folder / "out", "--no-verify")
    assert outcome.status == 0, outcome.stderr
    return folder


def bench(out: Path, *options: object) -> Outcome:
    return run_program("bench", out, *QUICK, *options)


def notes_of(report: dict[str, Any]) -> list[str]:
    """Its notes, but that the machine was busy, which it may have been."""
    loads = ("times are unsteady", "the machine was busy")
    return [note for note in report["notes"] if not note.startswith(loads)]


@pytest.fixture(scope="module")
def report(exported: Path) -> dict[str, Any]:
    """The JSON of a whole run, memory included."""
    path = exported / "bench.json"
    outcome = bench(exported / "out", "--json", path)
    assert outcome.status == 0, outcome.stderr
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def test_the_report_says_what_was_measured(report: dict[str, Any], exported: Path) -> None:
    assert set(report) == {
        "artifact", "model_sha256", "dtype", "precision", "runtime", "machine", "contenders", "repeat",
        "warm_up", "memory_measured", "notes", "results",
    }  # fmt: skip
    manifest = json.loads((exported / "out/manifest.json").read_text())
    assert report["model_sha256"] == manifest["files"]["model.onnx"]
    assert report["runtime"].startswith("ONNX Runtime, ")
    assert report["contenders"] == {name: {"device": "cpu", "dtype": "float32"} for name in NAMES}
    assert (report["repeat"], report["warm_up"]) == (4, 1)
    machine = report["machine"]
    assert set(machine) == {"cpu", "cores", "threads", "date", "gpus"}
    assert (machine["threads"], machine["gpus"], bool(machine["cpu"])) == (1, [], True)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", machine["date"])


def test_every_shape_has_every_contender(report: dict[str, Any]) -> None:
    found = [(r["batch"], r["length"], r["contender"]) for r in report["results"]]
    assert found == [(2, n, name) for n in (9, 20) for name in NAMES]


def test_the_numbers_follow_from_the_timed_passes(report: dict[str, Any]) -> None:
    seconds = {}
    for result in report["results"]:
        assert len(result["seconds"]) == 4
        assert min(result["seconds"]) > 0
        p50 = 1e3 * np.median(result["seconds"])
        assert result["latency_ms"] == pytest.approx({"p50": p50, "p90": None, "p99": None})
        assert result["tokens_per_second"] == pytest.approx(result["batch"] * result["length"] / p50 * 1e3)
        seconds[result["batch"], result["length"], result["contender"]] = np.array(result["seconds"])
    for result in report["results"]:
        key = result["batch"], result["length"]
        ratios = seconds[(*key, result["contender"])] / seconds[(*key, "artifact")]  # turn by turn
        assert result["times_artifact"] == pytest.approx(np.median(ratios))


@ON_LINUX
def test_memory_is_that_of_processes_of_their_own(report: dict[str, Any]) -> None:
    assert report["memory_measured"] == OF_THE_PASS
    peak = {name: set[int]() for name in NAMES}
    for result in report["results"]:
        assert result["peak_memory_bytes"] >= result["loaded_memory_bytes"] > 10**7
        peak[result["contender"]].add(result["peak_memory_bytes"])
    # An artifact's process holds no torch: measured in one process, both would hold the same.
    assert max(peak["artifact"]) < min(peak["eager"]) - 5 * 10**7


def test_the_table_has_a_line_for_each_and_says_what_is_in_it(exported: Path) -> None:
    outcome = bench(exported / "out", "--no-memory")
    assert outcome.status == 0, outcome.stderr
    lines = [line.split() for line in outcome.stdout.splitlines()]
    assert [line[2] for line in lines if line and line[0] == "2"] == NAMES * 2
    for words in ("p50 ms", "tokens/s", "artifact faster", "over 4 passes of each, in turns", " x\n"):
        assert words in outcome.stdout
    assert re.search(r"^Machine: .*, \d+ cores?, threads: 1; 20", outcome.stdout, re.MULTILINE)
    assert re.search(
        r"^[\d,.]+( to [\d,.]+)? times as fast as eager\. Eager is what", outcome.stdout, re.MULTILINE
    )
    assert "p90 ms" not in outcome.stdout
    assert "p99 ms" not in outcome.stdout
    assert "Memory:" not in outcome.stdout


def test_nothing_to_compare_with(exported: Path) -> None:
    outcome = bench(exported / "out", "--no-memory", "--against", "none", "--json", "-")
    report = json.loads(outcome.stdout)
    assert {r["contender"] for r in report["results"]} == {"artifact"}
    assert {r["times_artifact"] for r in report["results"]} == {1.0}
    assert report["memory_measured"] is None


def without_packages(*names: str) -> Any:
    """importlib.util.find_spec as where `names` are not installed."""
    find = importlib.util.find_spec
    return mock.patch.object(
        contenders.importlib.util, "find_spec", lambda name: None if name in names else find(name)
    )


def test_missing_packages_are_a_note(exported: Path) -> None:
    with without_packages("transformers"):
        outcome = bench(exported / "out", "--no-memory", "--json", "-")
    assert outcome.status == 0
    report = json.loads(outcome.stdout)
    assert {r["contender"] for r in report["results"]} == {"artifact", "full-attention"}
    (note,) = notes_of(report)
    assert note == "eager: left out, it needs transformers; pip install 'reformer-export[export]'"
    assert outcome.messages == [f"Note: {note}"]


def test_a_checkpoint_that_is_gone_is_a_note_but_a_wrong_one_an_error(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in (exported / "out").iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    outcome = bench(out, "--no-memory", "--against", "eager", "--json", "-")
    assert outcome.status == 0
    (note,) = notes_of(json.loads(outcome.stdout))
    assert note.startswith("eager: left out, checkpoint of ")
    assert "--checkpoint" in note
    assert f"Note: {note}" in outcome.messages
    found = bench(
        out, "--no-memory", "--against", "eager", "--json", "-", "--checkpoint", _checkpoint(exported)
    )
    assert notes_of(json.loads(found.stdout)) == []
    wrong = bench(out, "--no-memory", "--checkpoint", tmp_path / "nowhere")
    assert wrong.status == 2
    assert "nowhere" in wrong.error


def _checkpoint(exported: Path) -> Path:
    return exported / "ReformerModelWithLMHead"


def test_a_contender_that_memory_does_not_suffice_for_is_left_out_of_that_shape(exported: Path) -> None:
    def measure(setup: contenders.Setup, batch: int, length: int) -> None:
        if setup.name == "eager" and length == 20:
            raise PassFailedError(KILLED)

    with mock.patch.object(run, "measure_pass", measure):
        outcome = bench(exported / "out", "--json", "-")
    report = json.loads(outcome.stdout)
    assert [r["length"] for r in report["results"] if r["contender"] == "eager"] == [9]
    assert f"eager at batch 2, length 20: left out, {KILLED}." in report["notes"]


def test_an_artifact_that_cannot_do_its_pass_is_an_error(exported: Path) -> None:
    def measure(_setup: contenders.Setup, _batch: int, _length: int) -> None:
        raise PassFailedError(KILLED)

    with mock.patch.object(run, "measure_pass", measure):
        outcome = bench(exported / "out", "--json", "-")
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "artifact at batch 2, length 9: got no result" in outcome.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lengths", "9,65"), "--lengths: got 65, expected lengths from 1 to 64"),
        (("--lengths", "0"), "--lengths: got 0, expected lengths from 1 to 64"),
        (("--lengths", "many"), "--lengths: got 'many'"),
        (("--batch-sizes", "0"), "--batch-sizes: got [0], expected whole numbers from 1 up"),
        (("--against", "eager,sparse"), "--against: got 'eager,sparse', expected eager, full-attention"),
        (("--against", "artifact"), "--against: got 'artifact'"),
        (("--repeat", "0"), "--repeat"),
        (("--runtime", "tensorrt", "--threads", "2"), "threads: got one that tensorrt does not take"),
    ],
)
def test_bad_options_are_one_line(exported: Path, options: tuple[str, ...], words: str) -> None:
    outcome = bench(exported / "out", *options)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert words in outcome.error
    assert "expected" in outcome.error or "--repeat" in options


def test_no_artifact(tmp_path: Path) -> None:
    outcome = bench(tmp_path / "none")
    assert outcome.status == 2
    assert "none, which does not exist, expected a folder written by" in outcome.error


@pytest.mark.parametrize(
    ("usual", "measured"), [((256, 1024), [64]), ((16, 48), [16, 48, 64]), ((16, 64, 128), [16, 64])]
)
def test_default_lengths_are_those_that_fit_and_the_longest(
    exported: Path, monkeypatch: pytest.MonkeyPatch, usual: tuple[int, ...], measured: list[int]
) -> None:
    monkeypatch.setattr(workflow, "DEFAULT_LENGTHS", usual)
    outcome = run_program(
        "bench", exported / "out", "--repeat", 1, "--no-memory", "--against", "none", "--json", "-"
    )
    assert [r["length"] for r in json.loads(outcome.stdout)["results"]] == measured


def test_a_long_shape_is_measured_fewer_times_unless_a_number_was_asked_for(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "MAX_SECONDS_OF_A_SHAPE", 0.0)
    only = ("--no-memory", "--against", "none", "--lengths", "9", "--json", "-")
    for options, passes in (((), 3), (("--repeat", 5), 5)):
        (result,) = json.loads(run_program("bench", exported / "out", *only, *options).stdout)["results"]
        assert result["passes"] == len(result["seconds"]) == passes


def test_a_busy_machine_is_a_note(exported: Path) -> None:
    def busy(runs: Any, turns: int, _limit: float | None) -> dict[str, tuple[float, ...]]:
        return dict.fromkeys(runs, (0.1,) * (turns - 1) + (0.5,))

    with mock.patch.object(run, "time_in_turns", busy):
        outcome = bench(exported / "out", "--no-memory", "--against", "eager")
    assert (
        "Note: times are unsteady: one pass in ten took twice the median or longer (artifact at"
        in outcome.stdout
    )
    assert "The times are unsteady: see the notes." in outcome.stdout
    assert "1.00 times as fast as eager" in outcome.stdout


@pytest.mark.parametrize(("load", "is_told"), [(None, False), (2.9, False), (3.0, True)])
def test_a_machine_that_was_busy_all_the_while_is_a_note(
    load: float | None, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where passes take equally long, since others have the cores all the time."""
    monkeypatch.setattr(run.os, "cpu_count", lambda: 2)
    notes = run.warn_of_load([], load)
    assert [note.partition(":")[0] for note in notes] == [
        "the machine was busy before it began (load average 3.0, cores"
    ] * is_told
