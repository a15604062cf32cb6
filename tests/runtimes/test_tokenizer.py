from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer_export.errors import ArtifactError, InputError, MissingDependencyError
from reformer_export.runtimes.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

TEXT = "In the beginning ☃ été 漢字"


def write_tokenizer_json(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_sentencepiece(folder: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="the extra `text` is not installed")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 20),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


@pytest.fixture(params=[write_tokenizer_json, write_sentencepiece, lambda folder: None])
def tokenizer(tmp_path: Path, request: pytest.FixtureRequest) -> Tokenizer:
    request.param(tmp_path)
    return load_tokenizer(tmp_path, 320)


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_pieces_continue_the_prompt(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    for cut in (0, 1, len(ids) // 2, len(ids)):
        prompt = ids[:cut]
        pieces = list(tokenizer.decode_stream(iter(ids[cut:]), prompt))
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
            assert list(tokenizer.decode_stream(ids[cut:], ids[:cut])) == ["🦊"]
            assert list(tokenizer.decode_stream(ids[:cut])) == ["�"] * (cut > 0)


def test_pieces_come_as_their_tokens_do(tokenizer: Tokenizer) -> None:
    """Every piece is there before the next token is asked for."""
    ids, taken = tokenizer.encode(TEXT), []

    def tokens() -> Iterator[int]:
        for token in ids:
            taken.append(token)
            yield token

    shown = ""
    for piece in tokenizer.decode_stream(tokens()):
        shown += piece
        assert tokenizer.decode(taken) == shown
    assert shown == TEXT


def test_special_tokens_are_no_text(tmp_path: Path) -> None:
    write_tokenizer_json(tmp_path)
    tokenizer = load_tokenizer(tmp_path, 300)
    assert tokenizer.decode([0, *tokenizer.encode("In"), 0]) == "In"


def test_sentencepiece_ignores_ids_beyond_its_vocabulary(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path)
    tokenizer = load_tokenizer(tmp_path, 320)
    assert tokenizer.decode([*tokenizer.encode("In"), 319]) == "In"


@given(st.text())
def test_bytes_come_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == [byte + 2 for byte in text.encode()]
    assert tokenizer.decode(ids) == text
    assert "".join(tokenizer.decode_stream(ids)) == text


@given(st.lists(st.integers(0, 300)))
def test_pieces_of_any_bytes_are_the_whole_text(ids: list[int]) -> None:
    tokenizer = ByteTokenizer()
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


def test_ids_that_are_no_bytes_are_ignored() -> None:
    assert ByteTokenizer().decode([0, 1, 99, 258, 319, 100]) == "ab"


def test_a_small_vocabulary_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"257 ids, expected one of them.*give token ids"):
        load_tokenizer(tmp_path, 257)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{broken")
    with pytest.raises(ArtifactError, match=name):
        load_tokenizer(tmp_path, 258)


@pytest.mark.parametrize(
    ("name", "module"), [("tokenizer.json", "tokenizers"), ("spiece.model", "sentencepiece")]
)
def test_a_missing_package_names_its_extra(
    tmp_path: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"{}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"reformer-export\[text\]"):
        load_tokenizer(tmp_path, 258)
