"""A checkpoint's own tokenizer: what transformers makes of its files, whatever their format."""

from __future__ import annotations

import importlib.util
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.manifest import TOKENIZER_JSON_NAME
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.checkpoints.source import CONFIG_NAME, MAX_CONFIG_BYTES, read_json
from reformer_export.errors import CheckpointError, MissingDependencyError, one_line

TOKENIZER_CONFIG_NAME: Final = "tokenizer_config.json"

VOCABULARY_NAMES: Final = (
    TOKENIZER_JSON_NAME,
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "spm.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "tekken.json"),
)
"""Files that a tokenizer of transformers reads its vocabulary from."""

_CLASS_KEY: Final = "tokenizer_class"
_FIXED_PROBES: Final = (
    *("a", "In the beginning God created", "  two  spaces ", "\ttab\r\nline\n\nend ", "\ufeffmark", "\0"),
    *(
        "été ☃ 漢字 🦊🏽",
        "ﬁ Å \u0301",
        "x" * 300,
        "3.14159 1,000",
        "don't; 'quoted' \"twice\"",
        "<s></s>[CLS]",
    ),
)
_ALPHABET: Final = "aAbeInth 09.,'\n\r\t\u00a0\u2028éß漢字☃🦊\u200d\ufeff\u0301<>[]|/▁Ġ"
_NUM_RANDOM_PROBES: Final = 200
_MAX_SPECIAL_PROBES: Final = 100


@dataclass(frozen=True)
class SourceTokenizer:
    """A tokenizer of transformers.

    `name` says whose it is; `encode` gives the ids of a text, special tokens included, as a plain call does;
    `backend` is its `tokenizers.Tokenizer`; `special_tokens` are texts that it takes as one token.
    """

    name: str
    encode: Callable[[str], list[int]]
    backend: Any
    special_tokens: tuple[str, ...]

    def probe_texts(self) -> Iterator[str]:
        """Texts on which two tokenizers that are not the same give other ids: the same ones every time."""
        yield from _FIXED_PROBES
        for token in self.special_tokens[:_MAX_SPECIAL_PROBES]:
            yield from (token, f"a{token}b", f" {token} ", f"{token}{token}", token.lower())
        rng = random.Random(0)
        pieces = [*_ALPHABET, *self.special_tokens[:_MAX_SPECIAL_PROBES]]
        for _ in range(_NUM_RANDOM_PROBES):
            yield "".join(rng.choices(pieces, k=rng.randint(1, 24)))


def has_tokenizer(folder: Path) -> bool:
    """Whether the checkpoint in `folder` has files of a tokenizer, or names one."""
    return any((folder / name).is_file() for name in VOCABULARY_NAMES) or _declared_class(folder) is not None


def open_tokenizer(folder: Path) -> SourceTokenizer:
    """The tokenizer of the checkpoint in `folder`, as the installed transformers reads it.

    A lone tokenizer.json says all by itself, but transformers takes the class that belongs to the model's
    type where none is named: where the two are not the same, nobody knows which was meant.

    Raises:
        CheckpointError: there is none that can be used; `got` says why.
        MissingDependencyError: a package that reads its files is not installed.
    """
    _require_sentencepiece(folder)
    own, refusal = _open(folder, "AutoTokenizer")
    if not (folder / TOKENIZER_JSON_NAME).is_file():
        if own is None:
            raise _refuse(folder, refusal)
        return own
    if own is not None and _declared_class(folder) is not None:
        return own
    plain, refusal = _open(folder, "PreTrainedTokenizerFast")
    if plain is None:
        raise _refuse(folder, refusal)
    if own is not None and any(own.encode(text) != plain.encode(text) for text in plain.probe_texts()):
        got = f"{TOKENIZER_JSON_NAME} that is another tokenizer than {own.name}, which the model's type means"
        raise _refuse(folder, got)
    return plain


def _require_sentencepiece(folder: Path) -> None:
    models = [name for name in VOCABULARY_NAMES if name.endswith(".model") and (folder / name).is_file()]
    if models and importlib.util.find_spec("sentencepiece") is None:
        raise MissingDependencyError(
            models[0],
            "no package 'sentencepiece'",
            "it to read this tokenizer",
            'pip install sentencepiece, or use `tokenizer="none"` for token ids only',
        )


def _declared_class(folder: Path) -> str | None:
    """The tokenizer's class that the checkpoint names, if it does."""
    for name in (TOKENIZER_CONFIG_NAME, CONFIG_NAME):
        if (folder / name).is_file():
            declared = read_json(folder / name, MAX_CONFIG_BYTES).get(_CLASS_KEY)
            if isinstance(declared, str):
                return declared
    return None


def _open(folder: Path, class_name: str) -> tuple[SourceTokenizer | None, str]:
    """What a class of transformers makes of the files in `folder`; None, and why, when nothing that works."""
    import transformers

    with silence_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tokenizer = getattr(transformers, class_name).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the loaders of many formats raise errors of many kinds
            return (
                None,
                f"files that transformers {transformers.__version__} refuses ({_words(error)})",
            )
        name = f"{type(tokenizer).__name__} of transformers {transformers.__version__}"
        missing = _missing_files(folder, tokenizer)
        if missing:
            return None, f"no {' and no '.join(missing)}, which {name} reads"
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None, f"{name}, which has no form as {TOKENIZER_JSON_NAME}"
        special = tuple(sorted({str(token) for token in tokenizer.added_tokens_encoder}))
        source = SourceTokenizer(name, lambda text: _encode(tokenizer, text), backend, special)
        try:
            for text in source.probe_texts():
                source.encode(text)
        except Exception as error:
            return None, f"{name}, which fails on a text ({_words(error)})"
        return source, ""


def _encode(tokenizer: Any, text: str) -> list[int]:
    """As a plain call does; without its warning about the length that it was made for."""
    return list(tokenizer(text, verbose=False)["input_ids"])


def _missing_files(folder: Path, tokenizer: Any) -> list[str]:
    """The files that the class needs and `folder` lacks: without them it makes up a vocabulary."""
    if (folder / TOKENIZER_JSON_NAME).is_file():
        return []
    names = (name for key, name in tokenizer.vocab_files_names.items() if key != "tokenizer_file")
    return [name for name in names if not (folder / name).is_file()]


def _words(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def _refuse(folder: Path, got: str) -> CheckpointError:
    fix = f"name its {_CLASS_KEY} in {TOKENIZER_CONFIG_NAME}, or save it with `save_pretrained`"
    return CheckpointError(f"tokenizer in {folder}", got, "files of one that transformers reads", fix)
