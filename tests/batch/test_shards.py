"""Many files into a folder: rows as of one process, each once, whoever makes which part, and when."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reformer_export import load, run_files
from reformer_export.batch import Batching, FilesRequest, InputLine, run_shard
from reformer_export.batch.resume import lock_stream
from reformer_export.errors import InputError, OutputError, ReformerExportError
from reformer_export.runtimes import RuntimeOptions
from tests.batch.test_resume import invoke, start, write_input
from tests.edits import edit_json
from tests.runtimes.artifacts import write_artifact

ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "out", "text-classification")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of three files, two of one name, with a line in 97 that is bad, and an empty one."""
    for number, name in enumerate(("a/x.jsonl", "b/x.jsonl", "b/y.jsonl", "b/none.jsonl")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_input(tmp_path / "in" / name, 150 + 61 * number if number < 3 else 0)
    return tmp_path / "in"


def request(files: Path, output: Path, **fields: Any) -> FilesRequest:
    fields = {"part_rows": 40, "on_error": "skip", "runtime": ONE_THREAD, **fields}
    return FilesRequest((f"{files}/**/*.jsonl",), output, **fields)


def parts_of(folder: Path) -> dict[str, bytes]:
    """The parts' bytes by name; no other file is there but manifests."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {name: content for name, content in found.items() if not name.startswith("shard-")}


def test_shards_in_any_order_make_what_one_process_makes(out: Path, files: Path, tmp_path: Path) -> None:
    """And each input's parts, one after the other, are what a run into one file writes."""
    run_files(out, request(files, tmp_path / "one"))
    parts = parts_of(tmp_path / "one")
    for shard, threads in (("2/3", 2), ("00/03", 1), ("1/3", 2)):
        runtime = RuntimeOptions(threads=threads)
        manifest = run_files(out, request(files, tmp_path / "three", shard=shard, runtime=runtime))
        assert manifest.finished
    assert parts_of(tmp_path / "three") == parts
    assert {len(name.split("-")) for name in parts} == {4}
    inputs = sorted(path for path in files.rglob("*.jsonl"))
    for number, path in enumerate(inputs):
        joined = b"".join(content for name, content in parts.items() if name.startswith(f"{number:05d}-"))
        if joined:
            options = (
                "--on-error",
                "skip",
                "--threads",
                1,
                "--output",
                tmp_path / "whole.jsonl",
                "--restart",
            )
            invoke(out, "--file", path, *options)
            assert joined == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="forks a server")
def test_a_killed_shard_is_run_again(out: Path, files: Path, tmp_path: Path) -> None:
    options = ("--file", f"{files}/**/*.jsonl", "--part-rows", 3, "--on-error", "skip", "--threads", 1)
    one, many = tmp_path / "one", tmp_path / "many"
    assert invoke(out, *options, "--output", one).exit_code == 1
    assert invoke(out, *options, "--output", many, "--shard", "0/3").exit_code == 1
    generator, struck = random.Random(0), 0
    manifest = many / "shard-00001-of-00003.json"
    for _ in range(3):
        process = start(out, *options, "--output", many, "--shard", "1/3")
        while process.is_alive() and not manifest.exists():
            time.sleep(0.001)
        time.sleep(generator.uniform(0.01, 0.04))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        struck += manifest.exists() and not json.loads(manifest.read_text())["finished"]
    assert struck
    done = len(json.loads(manifest.read_text())["parts"])
    result = invoke(out, *options, "--output", many, "--shard", "1/3")
    assert result.exit_code == 1, result.output
    assert f"{done} of " in result.stderr or not done
    assert invoke(out, *options, "--output", many, "--shard", "2/3").exit_code == 1
    assert parts_of(many) == parts_of(one)
    rows = [json.loads(line) for content in parts_of(many).values() for line in content.splitlines()]
    assert len(rows) == 150 + 211 + 272


def test_finished_parts_are_not_made_again_and_torn_ones_are(out: Path, files: Path, tmp_path: Path) -> None:
    wanted = request(files, tmp_path / "r")
    run_files(out, wanted)
    parts = parts_of(tmp_path / "r")
    first, second, third = list(parts)[:3]
    (tmp_path / "r" / first).unlink()
    (tmp_path / "r" / second).write_bytes(b"torn")
    for name in (third, "shard-00000-of-00001.json"):
        (tmp_path / "r" / f".{name}.partial-0123abcd").write_bytes(b"left by a kill")
    made: list[str] = []
    with load(out, ONE_THREAD) as runtime:
        run_shard(runtime, wanted, lambda line: None, made.append)
    assert [sentence.split()[4] for sentence in made[1:]] == [first, second]
    assert parts_of(tmp_path / "r") == parts


def test_a_bad_row_ends_the_run_and_the_next_one_may_skip_it(out: Path, files: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.jsonl, line 97: input_ids: got id 999"):
        run_files(out, request(files, tmp_path / "r", on_error="stop"))
    assert len(parts_of(tmp_path / "r")) == 2
    run_files(out, request(files, tmp_path / "r"))
    run_files(out, request(files, tmp_path / "one"))
    assert parts_of(tmp_path / "r") == parts_of(tmp_path / "one")


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(shard="1/2"), "of shard '1/2', expected one of 2 shards"),
        (
            lambda m: m.update(options={**m["options"], "artifact": "0" * 64}),
            "got artifact '.*' as in .*shard-",
        ),
        (lambda m: m["options"].update(part_rows=41), "got part_rows 40, expected 41 as in"),
        (lambda m: m["options"].update(top_k=3), "got top_k None, expected 3 as in"),
        (lambda m: m["inputs"][0].update(sha256="0" * 64), r"x\.jsonl \(150 rows, .* as in .*shard-"),
        (lambda m: m["inputs"].pop(), "got 4 files, expected 3 as in"),
        (lambda m: m["parts"][0].update(name="../../stolen.jsonl"), r"the part '\.\./\.\./stolen\.jsonl' in"),
        (lambda m: m["parts"][0].update(first=1), "expected parts of this shard, each once"),
        (lambda m: m["parts"].append(m["parts"][0]), "expected parts of this shard, each once"),
        (lambda m: m["parts"][0].update(size=-1), "a missing or wrong field"),
        (lambda m: m.update(shard_manifest_version=2), "shard manifest version 2, expected 1"),
        (lambda m: m.pop("inputs"), "a missing or wrong field"),
    ],
)
def test_a_strangers_manifest_is_refused(
    out: Path, files: Path, tmp_path: Path, change: Change, message: str
) -> None:
    wanted = request(files, tmp_path / "r", shard="0/2")
    run_files(out, wanted)
    edit_json(tmp_path / "r" / "shard-00000-of-00002.json", change)
    before = {each.name: each.read_bytes() for each in (tmp_path / "r").iterdir()}
    with pytest.raises(InputError, match=message) as caught:
        run_files(out, wanted)
    assert {each.name: each.read_bytes() for each in (tmp_path / "r").iterdir()} == before
    assert all((caught.value.got, caught.value.expected, caught.value.fix))


def test_another_number_of_shards_and_another_runs_options(out: Path, files: Path, tmp_path: Path) -> None:
    """Of other shards' manifests too."""
    run_files(out, request(files, tmp_path / "r", shard="0/2"))
    for other, message in (
        ({"shard": "0/3"}, "of shard '0/2', expected one of 3 shards"),
        ({"shard": "1/2", "batching": Batching(4)}, "got rows 4, expected 1 as in"),
        ({"shard": "1/2", "part_format": "parquet"}, "got part_format 'parquet', expected 'jsonl'"),
    ):
        with pytest.raises(InputError, match=message):
            run_files(out, request(files, tmp_path / "r", **other))
    with (files / "a" / "x.jsonl").open("a") as stream:
        stream.write('{"input_ids": [1]}\n')
    with pytest.raises(InputError, match=r"x\.jsonl \(151 rows"):
        run_files(out, request(files, tmp_path / "r", shard="1/2"))


def test_links_lead_nowhere(out: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    run_files(out, request(files, tmp_path / "one"))
    name = next(iter(parts_of(tmp_path / "one")))
    for linked in (name, "shard-00000-of-00001.json", ".shard-00000-of-00001.json.lock"):
        (tmp_path / "r" / linked).unlink(missing_ok=True)
        (tmp_path / "r" / linked).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ReformerExportError, match=linked):
            run_files(out, request(files, tmp_path / "r"))
        (tmp_path / "r" / linked).unlink()
    assert not (tmp_path / "elsewhere").exists()


def test_one_process_a_shard(out: Path, files: Path, tmp_path: Path) -> None:
    run_files(out, request(files, tmp_path / "r", shard="0/2"))
    with (tmp_path / "r" / ".shard-00000-of-00002.json.lock").open("ab") as stream:
        lock_stream(stream, tmp_path)
        with pytest.raises(OutputError, match="which another process is writing"):
            run_files(out, request(files, tmp_path / "r", shard="0/2"))
        run_files(out, request(files, tmp_path / "r", shard="1/2"))


def test_an_input_that_is_written_during_the_run(out: Path, files: Path, tmp_path: Path) -> None:
    def write(line: InputLine) -> None:
        (files / "a" / "x.jsonl").write_text('{"input_ids": [1]}\n' * 200)

    wanted = dataclasses.replace(request(files, tmp_path / "r"), part_rows=10)
    with load(out, ONE_THREAD) as runtime, pytest.raises(InputError, match="was written during the run"):
        run_shard(runtime, wanted, write)
    assert not parts_of(tmp_path / "r")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shard": "3/3"}, r"^shard: got '3/3', expected I/N"),
        ({"shard": "1"}, "^shard: got"),
        ({"part_rows": 0}, "^part_rows: "),
        ({"part_format": "csv"}, "^part_format: got 'csv', expected one of jsonl, parquet"),
        ({"on_error": "ignore"}, "^on_error: "),
        ({"files": ()}, "^file: got none"),
        ({"output": None}, "^output: "),
    ],
)
def test_requests_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FilesRequest(**{"files": ("a",), "output": "b", **fields})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--file", "a", "--file", "b"), "^output: got none, expected a folder"),
        (
            ("--file", "a", "--shard", "0/2", "--output", "o.jsonl"),
            r"^--output: got o\.jsonl, expected a folder",
        ),
        (("--file", "a", "--output", "r", "--resume"), "finished parts are kept"),
        (("--file", "a", "--output", "r", "--restart"), "^--restart: got it, expected --file alone"),
        (("--file", "a", "--output", "r", "text"), "^TEXT: got it, expected --file alone"),
        (
            ("--file", "a", "--output", "o.jsonl", "--part-rows", "5"),
            "^--part-rows: got no folder as --output",
        ),
        (("--file", "a", "--output", "r", "--shard", "2/2"), "^--shard: got '2/2'"),
        (
            ("--file", "a", "--shard", "0/2", "--output", "r", "--ray-shards", "2"),
            "^--ray-shards: got 2 and --shard",
        ),
        (("--output", "r"), "^file: got none"),
        (("--file", "nothing*", "--output", "r"), "^--file: got nothing\\*, which no file fits"),
    ],
)
def test_options_that_do_not_fit(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReformerExportError, match=message):
        raise invoke(out, *options).exception or AssertionError
    assert not list(tmp_path.iterdir())


def test_files_without_a_row(out: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="files without a row"):
        run_files(out, files=[tmp_path / "a.txt"], output=tmp_path / "r", runtime=ONE_THREAD)
