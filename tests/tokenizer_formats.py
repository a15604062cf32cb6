"""Small tokenizers in every format that transformers writes, and texts on which tokenizers differ."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

TEXTS = ("In the beginning ☃ été 漢字", "the quick brown fox", "Hello hello world", "  two  spaces ")
PIECES = (
    *("In", " the", "begin", "ning", "hello", " ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\ufeff", "\0"),
    *("☃", "été", "e\u0301", "漢字", "🦊", "🦊🏽", "\u200d", "'t", "12", ".", "▁", "Ġ", "##", "<", ">"),
    *("<s>", "</s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "<end>", "<new>", " <left> "),
)

_pieces = st.sampled_from(PIECES)
_others = st.text(st.characters(codec="utf-8"), max_size=4)
texts = st.lists(_pieces, max_size=20).map("".join) | st.lists(_pieces | _others, max_size=12).map("".join)
"""Special tokens, emoji, byte order marks, line ends of every kind and whatever else."""


def write_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "reformer", **values}))


def write_tokenizer_config(folder: Path, **values: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def make_byte_level() -> Any:
    """A `tokenizers.Tokenizer`: byte-level BPE with special and added tokens."""
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
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def write_tokenizer_json(folder: Path) -> None:
    make_byte_level().save(str(folder / "tokenizer.json"))


def write_tokenizer_json_with_habits(folder: Path) -> None:
    """With truncation, padding, a template and tokens that take their spaces, all in the one file."""
    import tokenizers

    tokenizer = make_byte_level()
    tokenizer.add_tokens([tokenizers.AddedToken("<new>", single_word=True)])
    tokenizer.add_special_tokens([tokenizers.AddedToken("<left>", lstrip=True, rstrip=True)])
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<end> $A <end>", special_tokens=[("<end>", 0)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="<end>")
    tokenizer.save(str(folder / "tokenizer.json"))
    write_tokenizer_config(folder, tokenizer_class="PreTrainedTokenizerFast", eos_token="<end>")


def write_sentencepiece(folder: Path, model_type: str = "bpe") -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        model_type=model_type,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())


def write_sentencepiece_with_added_tokens(folder: Path) -> None:
    """As transformers 4 wrote it: three small files beside the model."""
    write_sentencepiece(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": 80}))
    special = {"eos_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": ["<left>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    write_tokenizer_config(folder, tokenizer_class="ReformerTokenizer", **special)


def write_word_piece(folder: Path) -> None:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "in",
        "the",
        "begin",
        "##ning",
        "hello",
        ".",
        "ete",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    write_tokenizer_config(folder, tokenizer_class="BertTokenizer", do_lower_case=True)


def write_vocab_and_merges(folder: Path) -> None:
    make_byte_level().model.save(str(folder))
    write_tokenizer_config(folder, tokenizer_class="GPT2Tokenizer", unk_token="<end>", eos_token="<end>")


def write_saved_by_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `export` is not installed")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=make_byte_level(), eos_token="<end>")
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)


FORMATS: dict[str, Callable[[Path], None]] = {
    "a lone tokenizer.json": write_tokenizer_json,
    "tokenizer.json with habits": write_tokenizer_json_with_habits,
    "spiece.model, BPE": write_sentencepiece,
    "spiece.model, unigram": lambda folder: write_sentencepiece(folder, "unigram"),
    "spiece.model with added tokens": write_sentencepiece_with_added_tokens,
    "vocab.txt": write_word_piece,
    "vocab.json and merges.txt": write_vocab_and_merges,
    "saved by transformers": write_saved_by_transformers,
}
"""What the files of a tokenizer are -> writes them."""
