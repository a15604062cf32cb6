"""Text to token ids and back, with what the artifact's folder holds.

tokenizer.json (package `tokenizers`), else spiece.model (package `sentencepiece`), else bytes: the id of a
byte is byte + 2, as in the enwik8 checkpoint, which comes without a tokenizer.
"""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from reformer_export.errors import ArtifactError, InputError, MissingDependencyError

TOKENIZER_JSON_NAME: Final = "tokenizer.json"
SENTENCEPIECE_NAME: Final = "spiece.model"
BYTE_OFFSET: Final = 2
"""Ids 0 (padding) and 1 are no bytes (model card of google/reformer-enwik8)."""
BYTE_VOCAB_SIZE: Final = BYTE_OFFSET + 256
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class IncrementalDecoder(Protocol):
    """Turns tokens into text one by one, never showing a part of a character."""

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes; often empty."""

    def finish(self) -> str:
        """The text that was held back; an unfinished character becomes U+FFFD."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; ids that stand for no text are left out."""

    def incremental_decoder(self, prompt_ids: Sequence[int] = ()) -> IncrementalDecoder:
        """A decoder for the tokens that follow `prompt_ids`."""


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of the artifact in `folder`; InputError when it has none and its ids are not bytes."""
    if (folder / TOKENIZER_JSON_NAME).is_file():
        return _load_tokenizer_json(folder / TOKENIZER_JSON_NAME)
    if (folder / SENTENCEPIECE_NAME).is_file():
        return _load_sentencepiece(folder / SENTENCEPIECE_NAME)
    if vocab_size >= BYTE_VOCAB_SIZE:
        return ByteTokenizer()
    raise InputError(
        f"tokenizer: got no {TOKENIZER_JSON_NAME} and no {SENTENCEPIECE_NAME} in {folder} and "
        f"{vocab_size} ids, expected one of them, or at least {BYTE_VOCAB_SIZE} ids for bytes; give token ids"
    )


class ByteTokenizer:
    """UTF-8 bytes, id = byte + 2; other ids stand for no text."""

    name = "bytes (id = byte + 2)"

    def encode(self, text: str) -> list[int]:
        return [byte + BYTE_OFFSET for byte in text.encode("utf-8", errors="surrogateescape")]

    def decode(self, ids: Sequence[int]) -> str:
        return _bytes_from_ids(ids).decode("utf-8", errors="replace")

    def incremental_decoder(self, prompt_ids: Sequence[int] = ()) -> IncrementalDecoder:
        return _ByteDecoder(prompt_ids)


class _ByteDecoder:
    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(_bytes_from_ids(prompt_ids))

    def push(self, token_id: int) -> str:
        return self._decoder.decode(_bytes_from_ids([token_id]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def _bytes_from_ids(ids: Sequence[int]) -> bytes:
    return bytes(i - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < BYTE_VOCAB_SIZE)


class LibraryTokenizer:
    """A tokenizer of a library, given as its two functions; ArtifactError when the library fails on a text,
    which a broken `path` can still make it do after it was loaded."""

    def __init__(
        self, path: Path, name: str, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]
    ) -> None:
        self.name = name
        self._path = path
        self._encode = encode
        self._decode = decode

    def encode(self, text: str) -> list[int]:
        try:
            return self._encode(text)
        except Exception as error:  # the libraries raise plain Exception
            raise _broken(self._path, error) from error

    def decode(self, ids: Sequence[int]) -> str:
        try:
            return self._decode(list(ids))
        except Exception as error:
            raise _broken(self._path, error) from error

    def incremental_decoder(self, prompt_ids: Sequence[int] = ()) -> IncrementalDecoder:
        return _WholeDecoder(self, prompt_ids)


class _WholeDecoder:
    """Decodes all tokens each time and gives out what is new: a token's text depends on those before it
    (a leading space, a character of several tokens). The package's own DecodeStream raises on bytes that are
    no character, and forgets what stands before a character that the prompt has begun."""

    def __init__(self, tokenizer: LibraryTokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt_ids)
        self._shown = len(tokenizer.decode(self._ids).rstrip(REPLACEMENT))

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(REPLACEMENT) else self._show(text)

    def finish(self) -> str:
        return self._show(self._tokenizer.decode(self._ids))

    def _show(self, text: str) -> str:
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece


def _load_tokenizer_json(path: Path) -> Tokenizer:
    tokenizers = _import_extra("tokenizers", path)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise _broken(path, error) from error
    return LibraryTokenizer(
        path,
        f"{TOKENIZER_JSON_NAME} (tokenizers {tokenizers.__version__})",
        lambda text: list(tokenizer.encode(text).ids),
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
    )


def _load_sentencepiece(path: Path) -> Tokenizer:
    sentencepiece = _import_extra("sentencepiece", path)
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise _broken(path, error) from error
    size = processor.vocab_size()
    return LibraryTokenizer(
        path,
        f"{SENTENCEPIECE_NAME} (sentencepiece {sentencepiece.__version__})",
        lambda text: list(processor.encode(text)),
        lambda ids: str(processor.decode([i for i in ids if i < size])),
    )


def _import_extra(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path.name}: got no package '{name}', expected it to read this tokenizer; "
            "pip install 'reformer-export[text]', or give token ids"
        ) from error


def _broken(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path}: got '{error}', expected a tokenizer; restore the file, or export the checkpoint again"
    )
