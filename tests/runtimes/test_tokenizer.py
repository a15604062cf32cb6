from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer_export.artifact.manifest import TokenizerRecord
from reformer_export.errors import ArtifactError, InputError, MissingDependencyError
from reformer_export.runtimes.tokenizer import ByteTokenizer, Tokenizer, decode_stream, load_tokenizer
from tests.tokenizer_formats import (
    make_byte_level,
    write_config,
    write_sentencepiece,
    write_tokenizer_json,
)

TEXT = "In the beginning ☃ été 漢字"


def write_sentencepiece_artifact(folder: Path) -> None:
    """What an export makes of a checkpoint with spiece.model alone."""
    pytest.importorskip("transformers", reason="the extra `export` is not installed")
    from reformer_export.checkpoints.tokenizer import open_tokenizer

    write_config(folder)
    write_sentencepiece(folder)
    open_tokenizer(folder).backend.save(str(folder / "tokenizer.json"))
    (folder / "spiece.model").unlink()


@pytest.fixture(params=[write_tokenizer_json, write_sentencepiece_artifact, lambda folder: None])
def tokenizer(tmp_path: Path, request: pytest.FixtureRequest) -> Tokenizer:
    request.param(tmp_path)
    return load_tokenizer(tmp_path, 258)


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_pieces_continue_the_prompt(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for cut in (0, 1, len(ids) // 2, len(ids)):
        prompt = ids[:cut]
        pieces = list(decode_stream(tokenizer, iter(ids[cut:]), prompt))
        shown = tokenizer.decode(prompt).rstrip("�")
        assert shown + "".join(pieces) == TEXT
        assert "�" not in "".join(pieces)


def test_characters_of_several_tokens_come_whole(tmp_path: Path) -> None:
    """A fox is four bytes, and neither tokenizer has learnt to join them."""
    write_tokenizer_json(tmp_path)
    for tokenizer in (load_tokenizer(tmp_path, 300), ByteTokenizer()):
        ids = tokenizer.encode("🦊")
        assert len(ids) == 4
        for cut in range(4):
            assert list(decode_stream(tokenizer, ids[cut:], ids[:cut])) == ["🦊"]
            assert list(decode_stream(tokenizer, ids[:cut])) == ["�"] * (cut > 0)


def test_pieces_come_as_their_tokens_do(tokenizer: Tokenizer) -> None:
    """Every piece is there before the next token is asked for."""
    ids, taken = tokenizer.encode(TEXT), []

    def tokens() -> Iterator[int]:
        for token in ids:
            taken.append(token)
            yield token

    shown = ""
    for piece in decode_stream(tokenizer, tokens()):
        shown += piece
        assert tokenizer.decode(taken) == shown
    assert shown == TEXT


def test_special_tokens_are_no_text(tmp_path: Path) -> None:
    write_tokenizer_json(tmp_path)
    tokenizer = load_tokenizer(tmp_path, 300)
    assert tokenizer.decode([0, *tokenizer.encode("In"), 0]) == "In"


@given(st.text())
def test_bytes_come_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == [byte + 2 for byte in text.encode()]
    assert tokenizer.decode(ids) == text
    assert "".join(decode_stream(tokenizer, ids)) == text


@given(st.lists(st.integers(0, 300)))
def test_pieces_of_any_bytes_are_the_whole_text(ids: list[int]) -> None:
    tokenizer = ByteTokenizer()
    assert "".join(decode_stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_ids_that_are_no_bytes_are_ignored() -> None:
    assert ByteTokenizer().decode([0, 1, 99, 258, 319, 100]) == "ab"


@pytest.mark.parametrize("vocab_size", [50, 257, 259, 320, 1000])
def test_other_vocabularies_are_no_bytes(tmp_path: Path, vocab_size: int) -> None:
    """Bytes only where the model says so: by exactly their ids, or by its manifest."""
    with pytest.raises(
        InputError, match=rf"no tokenizer.json and {vocab_size} ids\).*give token ids, or export"
    ):
        load_tokenizer(tmp_path, vocab_size)
    said = load_tokenizer(tmp_path, vocab_size, TokenizerRecord("bytes"))
    assert said.encode("a") == [99]


@pytest.mark.parametrize("name", ["spiece.model", "vocab.txt", "vocab.json", "merges.txt"])
def test_a_tokenizer_of_another_format_is_never_taken_for_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=rf"no tokenizer.json but {name} and 258 ids"):
        load_tokenizer(tmp_path, 258)


def test_what_the_manifest_refuses_is_refused(tmp_path: Path) -> None:
    write_tokenizer_json(tmp_path)
    with pytest.raises(InputError, match=r"\(two of them\), expected tokenizer.json"):
        load_tokenizer(tmp_path, 258, TokenizerRecord("none", "two of them"))


def test_truncation_and_padding_of_the_file_are_left_out(tmp_path: Path) -> None:
    tokenizer = make_byte_level()
    ids = tokenizer.encode(TEXT).ids
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path, 300).encode(TEXT) == ids
    tokenizer.no_truncation()
    tokenizer.enable_padding(length=100)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path, 300).encode(TEXT) == ids


def test_half_of_a_character_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"^text: got half of a character at position 1"):
        tokenizer.encode("a\ud800")


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"{broken")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path, 258)


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r"reformer-export\[text\]"):
        load_tokenizer(tmp_path, 258)
