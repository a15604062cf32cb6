from __future__ import annotations

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from reformer_export.cli.main import cli
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.decoders import decoding_artifact


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["generate", *map(str, arguments)])


def test_the_text_goes_to_standard_output_alone(out: Path) -> None:
    for extra in ((), ("--no-stream",)):
        result = invoke(out, "--prompt", "abc", "--temperature", 0, "--max-new-tokens", 4, *extra)
        assert result.stdout == "defg\n"
        assert "4 tokens in" in result.stderr
        assert "seed 0, stopped by max_new_tokens" in result.stderr


def test_a_prompt_file_is_taken_as_it_is(out: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("a b", encoding="utf-8")
    result = invoke(out, "--prompt-file", tmp_path / "prompt.txt", "--temperature", 0, "--max-new-tokens", 2)
    assert result.stdout == "cd\n"


def test_ids_in_give_ids_out(out: Path) -> None:
    for extra in ((), ("--no-stream",)):
        result = invoke(out, "--prompt-ids", "7,8", "--temperature", 0, "--max-new-tokens", 3, *extra)
        assert result.stdout == "9,10,11\n"


def test_the_end_token_can_be_given(out: Path) -> None:
    arguments = ("--prompt", "a", "--temperature", 0, "--eos-token-id", 5, "--eos-token-id", ord("d") + 2)
    result = invoke(out, *arguments)
    assert result.stdout == "bc\n"
    assert "stopped by eos_token" in result.stderr


def test_json_tells_all(out: Path) -> None:
    for prompt in (("--prompt", "ab"), ("--prompt-ids", "99,100")):
        result = invoke(out, *prompt, "--temperature", 0, "--max-new-tokens", 2, "--json", "--seed", 4)
        report = json.loads(result.stdout)
        assert report["prompt_ids"] == [99, 100]
        assert (report["ids"], report["text"]) == ([101, 102], "cd")
        assert (report["stop_reason"], report["seed"]) == ("max_new_tokens", 4)
        assert report["tokens_per_second"] > 0
        assert (report["cache"], report["cache_bytes"]) == (False, 0)
        assert [line[:8] for line in result.stderr.splitlines()] == ["Runs on "]


def test_json_without_tokenizer_has_no_text(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", vocab_size=50)
    report = json.loads(invoke(out, "--prompt-ids", "3", "--max-new-tokens", 2, "--json").stdout)
    assert report["text"] is None


def test_the_seed_decides_the_text(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out", table=np.zeros((258, 258), np.float32))
    texts = [
        invoke(out, "--prompt-ids", "5", "--max-new-tokens", 8, "--seed", seed).stdout for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] == invoke(out, "--prompt-ids", "5", "--max-new-tokens", 8).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "got none, expected one of TEXT, --prompt, --prompt-file, --prompt-ids, --file"),
        (("a", "--file", "b.txt"), "got TEXT and --file"),
        (("a", "--format", "text"), "--format: got text without --file"),
        (("--file", "nowhere.txt"), "cannot be read"),
        (("--prompt", "a", "--prompt-ids", "5"), "got --prompt and --prompt-ids"),
        (("--prompt", ""), "got no token"),
        (("",), "got no token"),
        (("a", "--prompt", "b"), "got TEXT and --prompt"),
        (("a", "--prompt-ids", "5"), "got TEXT and --prompt-ids"),
        (("--prompt-file", "nowhere"), "cannot be read"),
        (("--prompt-ids", "a"), "expected integers"),
        (("--prompt-ids", "999"), "id 999"),
        (("--prompt", "a" * 65), "got 65 tokens, expected at most 64"),
    ],
)
def test_wrong_prompts_are_refused(out: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(out, *arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [("--temperature", -1), ("--top-p", 0), ("--top-p", 1.5), ("--top-k", 0), ("--max-new-tokens", 0)],
)
def test_options_out_of_range_are_refused(out: Path, arguments: tuple[object, ...]) -> None:
    result = invoke(out, "--prompt", "a", *arguments)
    assert result.exit_code == 2
    assert str(arguments[0]) in result.stderr


def test_the_program_streams_utf_8(tmp_path: Path) -> None:
    """Every byte of a character is a token of its own; the terminal sees whole characters."""
    snowman = [byte + 2 for byte in "☃".encode()]
    table = np.zeros((258, 258), np.float32)
    for token, following in zip((99, *snowman), (*snowman, 99), strict=True):
        table[token, following] = 9
    out = write_artifact(tmp_path / "out", table=table)
    program = [sys.executable, "-m", "reformer_export.cli.main", "generate", str(out)]
    options = ["--prompt", "a", "--temperature", "0", "--max-new-tokens", "7"]
    for encoding, expected in (("utf-8", "☃a☃\n"), ("latin-1", "?a?\n")):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        result = subprocess.run([*program, *options], capture_output=True, check=False, env=environment)
        assert result.returncode == 0, result.stderr
        assert result.stdout.decode().replace(os.linesep, "\n") == expected


def test_a_prompt_file_keeps_its_line_ends_and_loses_its_mark(out: Path, tmp_path: Path) -> None:
    """The ids are those of the text that was written: CRLF stays, a byte order mark is none of it."""
    (tmp_path / "prompt.txt").write_bytes(codecs.BOM_UTF8 + b"a\r\nb\r")
    result = invoke(out, "--prompt-file", tmp_path / "prompt.txt", "--max-new-tokens", 1, "--json")
    assert json.loads(result.stdout)["prompt_ids"] == [byte + 2 for byte in b"a\r\nb\r"]


def test_a_prompt_file_that_ends_within_a_character(out: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"abc\xe2\x98")
    result = invoke(out, "--prompt-file", tmp_path / "prompt.txt")
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith("--prompt-file: got ")
    assert "unexpected end of data" in str(result.exception)


def test_several_prompts_come_in_order_each_under_a_line(out: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("ab\nx\n", encoding="utf-8")
    (tmp_path / "prompts.jsonl").write_text('{"text": "ab"}\n{"input_ids": [122]}\n', encoding="utf-8")
    for source in (
        ("--prompt", "ab", "--prompt", "x"),
        ("--file", "prompts.txt"),
        ("--file", "prompts.jsonl"),
    ):
        given = [tmp_path / each if "." in each else each for each in source]
        result = invoke(out, *given, "--temperature", 0, "--max-new-tokens", 2)
        assert result.stdout == "==> 1 <==\ncd\n\n==> 2 <==\nyz\n"
        assert "2 prompts, 4 tokens in" in result.stderr


def test_several_prompts_as_json(out: Path, tmp_path: Path) -> None:
    arguments = (
        out,
        "--prompt",
        "ab",
        "--prompt",
        "x",
        "--temperature",
        0,
        "--max-new-tokens",
        2,
        "--seed",
        3,
    )
    report = json.loads(invoke(*arguments, "--json").stdout)
    expected = [(0, [99, 100], [101, 102], "cd", 3), (1, [122], [123, 124], "yz", 4)]
    names = ("index", "prompt_ids", "ids", "text", "seed")
    assert [tuple(each[name] for name in names) for each in report["sequences"]] == expected
    assert (report["tokens"], report["cache"]) == (4, False)
    result = invoke(*arguments, "--json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["sequences"] == report["sequences"]
    assert result.stdout.startswith("==> 1 <==\ncd\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file: got a file without a line, expected at least one prompt"),
        ('{"text": "ab"}\n{"text": 5}\n', "line 2"),
        ('{"input_ids": [5, 6], "attention_mask": [1, 0]}\n', "got an attention_mask with zeros"),
    ],
)
def test_files_that_do_not_fit_are_refused(out: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(content, encoding="utf-8")
    result = invoke(out, "--file", tmp_path / "prompts.jsonl", "--max-new-tokens", 1)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_with_the_graph_tokens_are_steps() -> None:
    arguments = (decoding_artifact(), "--prompt", "In the", "--max-new-tokens", 9, "--no-check", "--json")
    stepped = json.loads(invoke(*arguments, "--refresh", 1).stdout)
    whole = json.loads(invoke(*arguments, "--cache", "off").stdout)
    assert (stepped["ids"], stepped["cache"], whole["cache"]) == (whole["ids"], True, False)
    assert stepped["cache_bytes"] > 0
    assert stepped["prompt_tokens_per_second"] > 0
    assert stepped["step_tokens_per_second"] > 0
    result = invoke(*arguments[:-1], "--cache", "on")
    assert "tokens/s, " in result.stderr
    assert "MB of caches" in result.stderr


def test_whole_passes_for_want_of_room_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "max_decoding_length", 8)
    arguments = (decoding_artifact(), "--prompt", "In the", "--no-check", "--max-new-tokens")
    for several in ((), ("--prompt", "a")):
        result = invoke(*arguments, 3, *several)
        assert result.exit_code == 0
        assert "steps take 8 tokens at most, and this text may get 9." in result.stderr
        assert result.stderr.count("Note:") == 1
    assert "Note:" not in invoke(*arguments, 2).stderr


def test_a_cache_needs_the_graph(out: Path) -> None:
    result = invoke(out, "a", "--cache", "on")
    assert isinstance(result.exception, InputError)
    assert str(result.exception).endswith(
        "without decode.onnx, expected an artifact with it; export the checkpoint again with --decode"
    )
