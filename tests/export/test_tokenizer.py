"""The ids of a text are those of the checkpoint's own tokenizer, or the text is refused."""

from __future__ import annotations

import functools
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.artifact.manifest import TokenizerRecord
from reformer_export.checkpoints import tokenizer as source_module
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.errors import CheckpointError, InputError, MissingDependencyError
from reformer_export.export.tokenizer import prepare_tokenizer, write_tokenizer
from reformer_export.runtimes.tokenizer import Tokenizer, load_tokenizer
from tests.tokenizer_formats import (
    FORMATS,
    make_byte_level,
    texts,
    write_config,
    write_sentencepiece,
    write_tokenizer_config,
    write_tokenizer_json,
    write_vocab_and_merges,
    write_word_piece,
)

VOCAB_SIZE = 1000


def add_tokenizer(checkpoint: Path, out: Path, vocab_size: int = VOCAB_SIZE, choice: Any = "auto") -> Any:
    """What an export writes of the tokenizer of `checkpoint` into `out`, and says of it."""
    record, source = prepare_tokenizer(checkpoint, vocab_size, choice)
    return record if source is None else write_tokenizer(source, checkpoint, out, record)


@functools.cache
def open_both(name: str) -> tuple[Tokenizer, Callable[[str], list[int]]]:
    """The artifact's tokenizer, and transformers' own for the same files."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        folder, out = Path(first), Path(second)
        write_config(folder)
        FORMATS[name](folder)
        record = add_tokenizer(folder, out)
        assert record.kind == "tokenizer.json", record.detail
        lone = name == "a lone tokenizer.json"  # which the class of the model's type cannot read
        kind = transformers.PreTrainedTokenizerFast if lone else transformers.AutoTokenizer
        with silence_transformers():
            own = kind.from_pretrained(str(folder), local_files_only=True)
        return load_tokenizer(out, VOCAB_SIZE, record), lambda text: own(text)["input_ids"]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_ids_are_those_of_the_checkpoints_own_tokenizer(name: str, text: str) -> None:
    written, own = open_both(name)
    assert written.encode(text) == own(text)


def test_what_a_file_keeps_beside_its_vocabulary_is_no_part_of_it() -> None:
    """Neither cut to 5 nor padded to 16 tokens, as a call of transformers' tokenizer; the template stays."""
    written, own = open_both("tokenizer.json with habits")
    assert written.encode("a") == own("a") == [0, *make_byte_level().encode("a").ids, 0]
    assert len(written.encode("x" * 50)) > 16


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda folder: None, "no tokenizer's file, and 1000 ids are not those of bytes"),
        (lambda folder: write_tokenizer_config(folder, model_max_length=9), "no tokenizer's file"),
        (
            lambda folder: (write_word_piece(folder), (folder / "tokenizer_config.json").unlink()),
            "no spiece.model, which ReformerTokenizer of transformers",
        ),
        (
            lambda folder: (write_vocab_and_merges(folder), (folder / "tokenizer_config.json").unlink()),
            "no spiece.model, which ReformerTokenizer",
        ),
        (
            lambda folder: (write_vocab_and_merges(folder), (folder / "merges.txt").unlink()),
            "refuses",
        ),
        (
            lambda folder: (write_word_piece(folder), (folder / "vocab.txt").unlink()),
            "no vocab.txt, which BertTokenizer",
        ),
        (
            lambda folder: write_tokenizer_config(folder, tokenizer_class="ByT5Tokenizer"),
            "ByT5Tokenizer of transformers",
        ),
        (lambda folder: write_tokenizer_config(folder, tokenizer_class="NoSuchTokenizer"), "refuses"),
        (lambda folder: (folder / "tokenizer.json").write_text("{broken"), "refuses"),
        (lambda folder: (folder / "spiece.model").write_bytes(b"\xff" * 40), "refuses"),
    ],
)
def test_without_a_tokenizer_that_can_be_used_text_is_refused(
    tmp_path: Path, write: Callable[[Path], object], reason: str
) -> None:
    """Never bytes in silence, and never a vocabulary that transformers made up."""
    write_config(tmp_path)
    write(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    record = add_tokenizer(tmp_path, out)
    assert record.kind == "none"
    assert reason in record.detail
    assert "\n" not in record.detail
    with pytest.raises(InputError, match=r"^tokenizer: got none for the model .*give token ids"):
        load_tokenizer(out, VOCAB_SIZE, record)


def test_bytes_are_for_models_that_say_so(tmp_path: Path) -> None:
    write_config(tmp_path)
    assert add_tokenizer(tmp_path, tmp_path, 258).kind == "bytes"
    assert add_tokenizer(tmp_path, tmp_path, 259).kind == "none"
    asked = add_tokenizer(tmp_path, tmp_path, 320, "bytes")
    assert load_tokenizer(tmp_path, 320, asked).encode("é") == [0xC3 + 2, 0xA9 + 2]
    assert add_tokenizer(tmp_path, tmp_path, 258, "none").kind == "none"
    with pytest.raises(InputError, match="bytes for 257 ids, expected a model of at least 258"):
        add_tokenizer(tmp_path, tmp_path, 257, "bytes")
    write_word_piece(tmp_path)  # a model of 258 ids with a tokenizer of its own
    assert add_tokenizer(tmp_path, tmp_path, 258).kind == "tokenizer.json"


def test_two_tokenizers_in_one_checkpoint_are_refused(tmp_path: Path) -> None:
    """tokenizer.json says one thing, the class of the model's type reads another out of it."""
    tokenizers = pytest.importorskip("tokenizers")
    write_config(tmp_path)
    words = {"<unk>": 0, "I": 1, "n": 2, "In": 3, "▁In": 4, "▁": 5, "</s>": 6}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    record = add_tokenizer(tmp_path, tmp_path)
    assert record.kind == "none"
    assert "another tokenizer than ReformerTokenizer" in record.detail
    write_tokenizer_config(tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    assert add_tokenizer(tmp_path, tmp_path).kind == "tokenizer.json"


def test_what_tokenizer_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    """`split_special_tokens` is transformers' own: the file alone would take "<end>" as one token."""
    write_config(tmp_path)
    write_tokenizer_json(tmp_path)
    write_tokenizer_config(
        tmp_path, tokenizer_class="PreTrainedTokenizerFast", eos_token="<end>", split_special_tokens=True
    )
    before = (tmp_path / "tokenizer.json").read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    record = add_tokenizer(tmp_path, out)
    assert record.kind == "none"
    assert "gives other ids for '<end>'" in record.detail
    assert (out / "tokenizer.json").read_bytes() == before  # the checkpoint's, for whoever knows better


def test_sentencepiece_is_asked_for_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path)
    write_sentencepiece(tmp_path)
    monkeypatch.setattr(source_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"^spiece.model: got no package.*pip install sentencepiece"
    ):
        add_tokenizer(tmp_path, tmp_path)
    assert add_tokenizer(tmp_path, tmp_path, choice="none").kind == "none"


def test_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        add_tokenizer(tmp_path, tmp_path)


def test_nobody_is_asked_over_the_network_and_no_code_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        pytest.fail("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_config(tmp_path)
    write_tokenizer_json(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nEvil = None\n")
    write_tokenizer_config(
        tmp_path, tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    )
    add_tokenizer(tmp_path, tmp_path)
    assert not (tmp_path / "ran").exists()


@given(st.text(st.characters(codec="utf-8")))
def test_bytes_of_any_text(text: str) -> None:
    written = load_tokenizer(Path("nowhere"), 258, TokenizerRecord("bytes"))
    assert written.encode(text) == [byte + 2 for byte in text.encode()]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_tokenizer_is_written_as_the_same_bytes(tmp_path: Path, name: str) -> None:
    write_config(tmp_path)
    FORMATS[name](tmp_path)
    contents = []
    for out in (tmp_path / "a", tmp_path / "b"):
        out.mkdir()
        add_tokenizer(tmp_path, out)
        contents.append((out / "tokenizer.json").read_bytes())
        assert json.loads(contents[-1])["truncation"] is None
    assert contents[0] == contents[1]
