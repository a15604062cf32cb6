"""From a checkpoint's tokenizer to what the commands make of a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from tests.cli.program import run_program
from tests.hf_models import config_t, save_model
from tests.tokenizer_formats import write_vocab_and_merges, write_word_piece

WRITERS: dict[str, Callable[[Path], object]] = {
    "no tokenizer at all": lambda folder: None,
    "vocab.txt": lambda folder: (write_word_piece(folder), (folder / "tokenizer_config.json").unlink()),
    "vocab.json": lambda folder: (
        write_vocab_and_merges(folder),
        (folder / "tokenizer_config.json").unlink(),
    ),
}


def export(tmp_path: Path, write: Callable[[Path], object], *options: str, vocab_size: int = 1000) -> Path:
    config = config_t(vocab_size=vocab_size, is_decoder=True)
    checkpoint = save_model(tmp_path, config, transformers.ReformerModelWithLMHead)
    write(checkpoint)
    outcome = run_program("onnx", checkpoint, tmp_path / "out", "--no-verify", *options)
    assert outcome.status == 0, outcome.stderr
    noted = "token ids only, no text" in outcome.stderr
    assert noted == (write in (WRITERS["vocab.txt"], WRITERS["vocab.json"]))
    return tmp_path / "out"


@pytest.mark.slow
@pytest.mark.parametrize("files", WRITERS)
def test_a_text_is_never_taken_for_bytes_in_silence(tmp_path: Path, files: str) -> None:
    out = export(tmp_path, WRITERS[files])
    for command in (("run", out, "hello"), ("generate", out, "--prompt", "hello")):
        outcome = run_program(*command)
        assert (outcome.status, outcome.stdout) == (2, "")
        (message,) = outcome.messages
        assert message.startswith("Error: tokenizer: got none for the model in ")
        assert "export the checkpoint again with its tokenizer, or with --tokenizer bytes" in message
    assert run_program("run", out, "--ids", "5,6,7").status == 0


@pytest.mark.slow
def test_bytes_are_asked_for_by_an_option(tmp_path: Path) -> None:
    out = export(tmp_path, WRITERS["no tokenizer at all"], "--tokenizer", "bytes", vocab_size=320)
    outcome = run_program("generate", out, "--prompt", "é", "--max-new-tokens", 1, "--json")
    assert json.loads(outcome.stdout)["prompt_ids"] == [0xC3 + 2, 0xA9 + 2]
    assert "as bytes (id = byte + 2): asked for" in run_program("inspect", out).stdout


@pytest.mark.slow
def test_the_checkpoints_own_tokenizer_reads_and_writes(tmp_path: Path) -> None:
    out = export(tmp_path, write_word_piece)
    prompt = "In the BEGINNING."
    outcome = run_program("generate", out, "--prompt", prompt, "--max-new-tokens", 1, "--json")
    own = transformers.BertTokenizer.from_pretrained(tmp_path / "ReformerModelWithLMHead")
    assert json.loads(outcome.stdout)["prompt_ids"] == own(prompt)["input_ids"] == [2, 5, 6, 7, 8, 10, 3]
    assert "by tokenizer.json: BertTokenizer of transformers" in run_program("inspect", out).stdout
