"""Text to token ids and back, with what the artifact's folder holds: tokenizer.json, or bytes.

The export writes a tokenizer of any format as tokenizer.json (export/tokenizer.py). Bytes (id = byte + 2) are
for models that say so: the enwik8 checkpoint comes without a tokenizer and has exactly their ids.
"""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from reformer_export.artifact.manifest import TOKENIZER_JSON_NAME, TokenizerRecord
from reformer_export.errors import ArtifactError, InputError, MissingDependencyError

OTHER_NAMES: Final = ("spiece.model", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model")
"""Files of tokenizers that are not read here."""
BYTE_OFFSET: Final = 2
"""Ids 0 (padding) and 1 are no bytes (model card of google/reformer-enwik8)."""
BYTE_VOCAB_SIZE: Final = BYTE_OFFSET + 256
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class TextStream(Protocol):
    """The text of tokens as they come, in pieces of whole characters."""

    def add(self, token_id: int) -> str:
        """What the next token adds; empty while a character is unfinished."""

    def end(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def name(self) -> str:
        """What it is, for people."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; ids that stand for no text are left out."""

    def start_stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        """Of the tokens that follow `prompt_ids`."""


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int], prompt_ids: Sequence[int] = ()) -> Iterator[str]:
    """The text of `ids`, which follow `prompt_ids`, as they come, in pieces of whole characters; one that is
    unfinished at the end becomes U+FFFD."""
    stream = tokenizer.start_stream(prompt_ids)
    for token_id in ids:
        if piece := stream.add(token_id):
            yield piece
    if piece := stream.end():
        yield piece


def load_tokenizer(folder: Path, vocab_size: int, record: TokenizerRecord | None = None) -> Tokenizer:
    """The tokenizer of the artifact in `folder`; InputError when it has none and its ids are not bytes.

    `record` is what the manifest says of it; None where an older version wrote the manifest.
    """
    kind = "" if record is None else record.kind
    if kind == "bytes":
        return ByteTokenizer()
    if kind != "none" and (folder / TOKENIZER_JSON_NAME).is_file():
        return _load_tokenizer_json(folder / TOKENIZER_JSON_NAME)
    others = [name for name in OTHER_NAMES if (folder / name).is_file()]
    if not kind and not others and vocab_size == BYTE_VOCAB_SIZE:
        return ByteTokenizer()
    if not vocab_size:
        expected = "a model that takes token ids"
        raise InputError("tokenizer", "none, as the model takes vectors", expected, "give vectors")
    got = f"no {TOKENIZER_JSON_NAME}{f' but {others[0]}' if others else ''} and {vocab_size} ids"
    raise InputError(
        "tokenizer",
        got=f"none for the model in {folder} ({record.detail if record else got})",
        expected=f"{TOKENIZER_JSON_NAME}, or a model of the {BYTE_VOCAB_SIZE} ids of bytes",
        fix='give token ids, or export the checkpoint again with its tokenizer, or with `tokenizer="bytes"`',
    )


class ByteTokenizer:
    """UTF-8 bytes, id = byte + 2; other ids stand for no text."""

    name = "bytes (id = byte + 2)"

    def encode(self, text: str) -> list[int]:
        """Bytes of a command line that are no UTF-8 are themselves (surrogateescape, PEP 383)."""
        return [byte + BYTE_OFFSET for byte in _encode_text(text, "surrogateescape")]

    def decode(self, ids: Sequence[int]) -> str:
        return _bytes_from_ids(ids).decode("utf-8", errors="replace")

    def start_stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        return _ByteStream(prompt_ids)


class _ByteStream:
    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(_bytes_from_ids(prompt_ids))

    def add(self, token_id: int) -> str:
        return self._decoder.decode(_bytes_from_ids((token_id,)))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


def _encode_text(text: str, errors: str) -> bytes:
    try:
        return text.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        got = f"half of a character at position {error.start} (a lone surrogate)"
        raise InputError("text", got, "text that UTF-8 can write", "mend it") from error


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
        _encode_text(text, "strict")
        try:
            return self._encode(text)
        except Exception as error:  # the libraries raise plain Exception
            raise _broken(self._path, error) from error

    def decode(self, ids: Sequence[int]) -> str:
        try:
            return self._decode(list(ids))
        except Exception as error:
            raise _broken(self._path, error) from error

    def start_stream(self, prompt_ids: Sequence[int] = ()) -> TextStream:
        return _LibraryStream(self, prompt_ids)


class _LibraryStream:
    """Decodes all tokens each time and gives out what is new: a token's text depends on those before it (a
    leading space, a character of several tokens). The package's own DecodeStream raises on bytes that are no
    character, and forgets what stands before a character that the prompt has begun."""

    def __init__(self, tokenizer: LibraryTokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._known = list(prompt_ids)
        self._text = tokenizer.decode(self._known)
        self._shown = len(self._text.rstrip(REPLACEMENT))

    def add(self, token_id: int) -> str:
        self._known.append(token_id)
        self._text = self._tokenizer.decode(self._known)
        return "" if self._text.endswith(REPLACEMENT) else self._take()

    def end(self) -> str:
        return self._take()

    def _take(self) -> str:
        piece = self._text[self._shown :]
        self._shown = max(self._shown, len(self._text))
        return piece


def _load_tokenizer_json(path: Path) -> Tokenizer:
    tokenizers = _import_extra("tokenizers", path)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise _broken(path, error) from error
    tokenizer.no_truncation()  # which transformers leaves out too, unless a call asks for them
    tokenizer.no_padding()
    return LibraryTokenizer(
        path,
        f"{TOKENIZER_JSON_NAME} (tokenizers {tokenizers.__version__})",
        lambda text: list(tokenizer.encode(text).ids),
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
    )


def _import_extra(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        got, fix = f"no package '{name}'", "pip install 'reformer-export[text]', or give token ids"
        raise MissingDependencyError(path.name, got, "it to read this tokenizer", fix) from error


def _broken(path: Path, error: Exception) -> ArtifactError:
    fix = "restore the file, or export the checkpoint again"
    return ArtifactError(path, f"'{error}'", "a tokenizer", fix)
