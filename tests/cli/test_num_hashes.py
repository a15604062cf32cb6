"""--max-hashes and --num-hashes: export, run and judge an artifact whose runs choose their rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from reformer_export import load
from reformer_export.artifact.manifest import read_manifest
from tests.cli.program import Outcome, run_program, snapshot
from tests.export.test_num_hashes import canonical_with_first_rounds
from tests.hf_models import config_t, save_model
from tests.runtimes.artifacts import write_artifact

MAX_HASHES = 5
COUNTS = (1, 2, 4, MAX_HASHES)
TEXT = "In the beginning, naïve and then a naïve end. " * 7


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of a language model over bytes, and its artifact `out`, 1 to 5 hashes."""
    folder = tmp_path_factory.mktemp("exported")
    config = config_t(is_decoder=True, vocab_size=258, attn_layers=["lsh", "lsh"], initializer_range=0.5)
    checkpoint = save_model(folder, config, transformers.ReformerModelWithLMHead)
    outcome = run_program("onnx", checkpoint, folder / "out", "--max-hashes", MAX_HASHES)
    assert outcome.status == 0, outcome.stderr
    assert ", 1 to 5 hashes; largest difference to eager" in outcome.stdout
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(exported: Path) -> Path:
    return exported / "ReformerModelWithLMHead"


@pytest.fixture(scope="module")
def fixed(exported: Path, checkpoint: Path) -> Path:
    """The same model with its own two hashes."""
    outcome = run_program("onnx", checkpoint, exported / "fixed", "--no-verify")
    assert outcome.status == 0, outcome.stderr
    return exported / "fixed"


def refused(*arguments: object) -> str:
    outcome = run_program(*arguments)
    assert outcome.status == 2, outcome
    for part in ("got", "expected", "; "):
        assert part in outcome.error
    return outcome.error


def read_json(outcome: Outcome) -> Any:
    assert outcome.status == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_the_short_comparison_tries_fewer_hashes(exported: Path) -> None:
    manifest = read_manifest(exported / "out")
    assert manifest.parity is not None
    assert manifest.parity["passed"]
    assert manifest.parity["num_cases"] == 3 + 3  # one hashed input, with 1, 2 and 4 hashes too
    assert manifest.source["num_hashes"] == {"checkpoint": 2, "used": 5, "from": "override"}


def test_one_of_two_options(checkpoint: Path, tmp_path: Path) -> None:
    error = refused("onnx", checkpoint, tmp_path / "out", "--max-hashes", 8, "--num-hashes", 2)
    assert "--max-hashes: got 8 and --num-hashes 2" in error
    assert snapshot(tmp_path) == {}


def test_a_model_that_does_not_hash(tmp_path: Path) -> None:
    folder = save_model(tmp_path, config_t(attn_layers=["local"]), transformers.ReformerModel)
    error = refused("onnx", folder, tmp_path / "out", "--max-hashes", 8)
    assert "no LSH layer; leave --num-hashes or --max-hashes out" in error


# Running


def test_run_and_generate_use_the_count(exported: Path) -> None:
    out, ids = exported / "out", list(range(5, 45))
    with load(out) as model:
        for count in (1, MAX_HASHES):
            expected = model.run([ids], num_hashes=count)["logits"][0, -1]
            options = ("--ids", ",".join(map(str, ids)), "--num-hashes", count, "--json")
            outcome = run_program("run", out, *options)
            (found,) = read_json(outcome)["sequences"]
            probabilities = np.exp(expected - expected.max()) / np.exp(expected - expected.max()).sum()
            best = found["next_tokens"][0]
            assert best["id"] == int(expected.argmax())
            assert best["probability"] == pytest.approx(float(probabilities.max()), rel=1e-5)
            assert f", {count} of {MAX_HASHES} hashes." in outcome.stderr

            prompt = ("--prompt-ids", ",".join(map(str, ids)), "--temperature", 0, "--max-new-tokens", 2)
            made = read_json(run_program("generate", out, *prompt, "--num-hashes", count, "--json"))
            assert made["ids"][0] == int(expected.argmax())


def test_a_resumed_run_keeps_its_count(exported: Path, tmp_path: Path) -> None:
    """The count is part of what a run that goes on has to have in common with the one before."""
    (tmp_path / "in.jsonl").write_text('{"input_ids": [5]}\n{}\n')
    arguments = ("run", exported / "out", "--file", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert run_program(*arguments).status == 2  # at the second line; the first one is kept
    error = refused(*arguments, "--resume", "--num-hashes", 2)
    assert "--resume: got execution " in error
    assert "2 of 5 hashes" in error


def test_bench_uses_the_count(exported: Path) -> None:
    options = ("--lengths", 40, "--repeat", 1, "--warm-up", 0, "--no-memory", "--against", "eager")
    report = read_json(run_program("bench", exported / "out", *options, "--num-hashes", 2, "--json", "-"))
    assert report["runtime"].endswith(", 2 of 5 hashes")
    assert {row["contender"] for row in report["results"]} == {"artifact", "eager"}


@pytest.mark.parametrize("command", ["run", "generate", "bench", "verify"])
def test_counts_that_do_not_fit(exported: Path, fixed: Path, command: str) -> None:
    extra = {"run": ("--ids", "5"), "generate": ("--prompt-ids", "5")}.get(command, ())
    error = refused(command, exported / "out", *extra, "--num-hashes", MAX_HASHES + 1)
    assert "--num-hashes: got 6, expected a whole number from 1 to 5" in error
    error = refused(command, fixed, *extra, "--num-hashes", 1)
    assert "an artifact with 2 hashes built in" in error
    assert "--max-hashes" in error


def test_an_engine_needs_a_number(exported: Path, fixed: Path) -> None:
    out = exported / "out"
    rtx = ("--runtime", "tensorrt-rtx", "--compute-capability", "8.9")
    error = refused("engine", out, *rtx)
    assert "exported with --max-hashes 5, whose runs choose, expected a number of hashes to build in" in error
    assert "give --num-hashes, from 1 to 5" in error
    error = refused("engine", out, *rtx, "--num-hashes", 6)
    assert "--num-hashes: got 6, expected a whole number from 1 to 5" in error
    assert "an artifact with 2 hashes built in" in refused("engine", fixed, *rtx, "--num-hashes", 2)
    assert not (out / "engines").exists()


def test_inspect_tells_the_choice(exported: Path, fixed: Path) -> None:
    outcome = run_program("inspect", exported / "out")
    lines = [" ".join(line.split()) for line in outcome.stdout.splitlines()]
    assert "hashes of a run 1 to 5 by --num-hashes; only 5 is transformers' own draw" in lines
    report = read_json(run_program("inspect", exported / "out", "--json"))
    assert report["manifest"]["dial"]["max_hashes"] == MAX_HASHES
    assert "num_hashes int64 [1]" in report["graph"]["inputs"]
    plain = read_json(run_program("inspect", fixed, "--json"))
    assert report["graph"]["parameters"] == plain["graph"]["parameters"]  # no rotations among them
    assert plain["manifest"]["dial"] is None


# Judging


def test_verify_tries_fewer_hashes(exported: Path) -> None:
    report = read_json(run_program("verify", exported / "out", "--json", "-"))
    assert report["passed"]
    counts = [case["case"].get("num_hashes") for case in report["cases"]]
    assert counts[-6:] == [1, 1, 2, 2, 4, 4]
    assert set(counts[:-6]) == {None}
    by_count = {case["case"].get("num_hashes"): case for case in report["cases"]}
    few = by_count[1]
    assert few["layers"][0]["hashed"] > 0
    assert few["pinned_error"] < 1e-4


def test_verify_at_chosen_counts(exported: Path) -> None:
    options = ("--lengths", 20, "--batch-sizes", 1, "--num-hashes", "3,5", "--json", "-")
    report = read_json(run_program("verify", exported / "out", *options))
    assert report["passed"]
    hashed = [(case["case"]["num_hashes"], case["layers"][0]["hashed"]) for case in report["cases"]]
    assert [count for count, _ in hashed] == [3, 3, 5, 5]
    assert (hashed[0][1], hashed[2][1]) == (2 * 3 * 20, 2 * 5 * 20)  # heads x rounds x tokens


def expected_losses(checkpoint: Path, length: int) -> dict[int, float]:
    """Nats a token by count, from torch alone."""
    ids = torch.tensor([byte + 2 for byte in TEXT.encode()])
    losses = {}
    for count in COUNTS:
        model = canonical_with_first_rounds(checkpoint, MAX_HASHES, count)
        total, tokens = 0.0, 0
        for piece in ids.split(length):
            (logits,) = model(piece[None], torch.ones_like(piece[None]))
            total += float(
                torch.nn.functional.cross_entropy(logits[0, :-1].double(), piece[1:], reduction="sum")
            )
            tokens += len(piece) - 1
        losses[count] = total / tokens
    return losses


@pytest.mark.parametrize("length", [64, 40])
def test_accuracy_on_a_text_is_torch_s(exported: Path, checkpoint: Path, length: int) -> None:
    options = ("--lengths", 1, "--data", exported / "text.txt", "--json", "-")
    if length != 64:  # the longest, by default
        options = (*options, "--data-length", length)
    dial = read_json(run_program("verify", exported / "out", *options))["dial"]
    tokens = len(TEXT.encode())
    assert {name: dial[name] for name in ("data", "max_hashes", "sequence_length", "characters")} == {
        "data": "text.txt",
        "max_hashes": MAX_HASHES,
        "sequence_length": length,
        "characters": len(TEXT),
    }
    assert [row["num_hashes"] for row in dial["rows"]] == list(COUNTS)
    expected = expected_losses(checkpoint, length)
    assert len({round(loss, 4) for loss in expected.values()}) == len(COUNTS)  # the count matters here
    for row in dial["rows"]:
        assert row["loss"] == pytest.approx(expected[row["num_hashes"]], rel=1e-5)
        assert row["bits_per_character"] == pytest.approx(row["loss"] / np.log(2) * tokens / len(TEXT))
        assert row["tokens"] == tokens - -(-tokens // length)
        assert row["tokens_per_second"] > 0


def test_accuracy_in_a_table(exported: Path) -> None:
    options = ("--lengths", 1, "--data", exported / "text.txt", "--num-hashes", "2")
    outcome = run_program("verify", exported / "out", *options)
    assert (outcome.status, outcome.messages) == (0, [])
    lines = [line.split() for line in outcome.stdout.splitlines()]
    header = ["hashes", "loss", "(nats/token)", "bits/character", "tokens/s", "tokens", "predicted"]
    (row,) = lines[lines.index(header) + 1 :]
    assert row[0] == "2"


def test_an_artifact_without_the_choice_has_one_row(exported: Path, fixed: Path) -> None:
    options = ("--lengths", 1, "--data", exported / "text.txt", "--json", "-")
    dial = read_json(run_program("verify", fixed, *options))["dial"]
    assert dial["max_hashes"] is None
    assert [row["num_hashes"] for row in dial["rows"]] == [2]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", (), "which is empty"),
        (b"x", (), "a text of 1 tokens"),
        (b"\xff\xfe\x00", (), "expected UTF-8 text"),
        (None, (), "cannot be read"),
        (b"some text", ("--data-length", 65), "--data-length: got 65, expected from 2 to 64"),
    ],
)
def test_texts_that_do_not_fit(
    exported: Path, tmp_path: Path, content: bytes | None, options: tuple[object, ...], message: str
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert message in refused("verify", exported / "out", "--lengths", 1, "--data", path, *options)


def test_models_that_have_no_such_loss(exported: Path, tmp_path: Path) -> None:
    classifier = write_artifact(tmp_path / "classifier", "text-classification")
    error = refused("verify", classifier, "--data", exported / "text.txt")
    assert "--data: got an artifact for text-classification" in error
    last = write_artifact(tmp_path / "last", logits="last")
    assert "--logits all" in refused("verify", last, "--data", exported / "text.txt")
    assert "expected --data too" in refused("verify", last, "--data-length", 8)
