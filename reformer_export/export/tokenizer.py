"""The way from text to ids into an artifact: tokenizer.json, whatever the checkpoint's own files are.

What is written gives the ids that the checkpoint's own tokenizer gives, or is not written.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from reformer_export.artifact.manifest import TOKENIZER_JSON_NAME, TokenizerRecord
from reformer_export.checkpoints.tokenizer import SourceTokenizer, has_tokenizer, open_tokenizer
from reformer_export.errors import CheckpointError, InputError, ReformerExportError
from reformer_export.runtimes.tokenizer import BYTE_VOCAB_SIZE, load_tokenizer
from reformer_export.spec import TokenizerChoice


def prepare_tokenizer(
    checkpoint: Path, vocab_size: int, choice: TokenizerChoice, is_file: bool = False
) -> tuple[TokenizerRecord, SourceTokenizer | None]:
    """What the manifest says of text, and the tokenizer to write, if there is one.

    Args:
        checkpoint: the checkpoint's folder.
        vocab_size: ids of the model; 0 for one that takes vectors.
        choice: "auto" takes the checkpoint's own, or bytes where it has none and exactly their ids; "bytes"
            (id = byte + 2) and "none" leave its files alone.
        is_file: whether the checkpoint is one file in that folder, to which no tokenizer belongs.

    Raises:
        InputError: bytes for a model with fewer ids.
        MissingDependencyError: a package that reads the tokenizer's files is not installed.
    """
    if choice == "none":
        return TokenizerRecord("none", "it was exported without one"), None
    if choice == "bytes":
        if not vocab_size:
            fix = "leave `tokenizer` out"
            raise InputError("tokenizer", "bytes for a model that takes vectors", "none", fix)
        if vocab_size < BYTE_VOCAB_SIZE:
            got, expected = f"bytes for {vocab_size} ids", f"a model of at least {BYTE_VOCAB_SIZE}"
            raise InputError("tokenizer", got, expected, "leave `tokenizer` out")
        return TokenizerRecord("bytes", "asked for"), None
    if not vocab_size:
        return TokenizerRecord("none", "the model takes vectors"), None
    if is_file:
        return TokenizerRecord("none", "a lone file of tensors has no tokenizer"), None
    if not has_tokenizer(checkpoint):
        if vocab_size == BYTE_VOCAB_SIZE:
            return TokenizerRecord("bytes", f"{vocab_size} ids and no tokenizer's file"), None
        return TokenizerRecord(
            "none", f"no tokenizer's file, and {vocab_size} ids are not those of bytes"
        ), None
    try:
        source = open_tokenizer(checkpoint)
    except CheckpointError as refusal:
        return TokenizerRecord("none", refusal.got), None
    return TokenizerRecord("tokenizer.json", source.name), source


def write_tokenizer(
    source: SourceTokenizer, checkpoint: Path, folder: Path, record: TokenizerRecord
) -> TokenizerRecord:
    """Write `source` as tokenizer.json into the artifact `folder`, and compare it there; what the manifest
    says then: `record`, or that there is none.

    What a tokenizer's file keeps beside its vocabulary, truncation and padding, is left out: a call of
    transformers' own tokenizer turns both off.
    """
    path = folder / TOKENIZER_JSON_NAME
    source.backend.no_truncation()
    source.backend.no_padding()
    source.backend.save(str(path))
    problem = _find_difference(source, folder, record)
    if problem is None:
        return record
    path.unlink()
    if (checkpoint / TOKENIZER_JSON_NAME).is_file():
        shutil.copyfile(checkpoint / TOKENIZER_JSON_NAME, path)
    return TokenizerRecord("none", problem)


def _find_difference(source: SourceTokenizer, folder: Path, record: TokenizerRecord) -> str | None:
    """Why tokenizer.json in `folder` is not `source`; None when it is, as far as texts can tell."""
    try:
        written = load_tokenizer(folder, 0, record)
        for text in source.probe_texts():
            if written.encode(text) != source.encode(text):
                return f"{source.name}, of which {TOKENIZER_JSON_NAME} gives other ids for {text!r:.40}"
    except ReformerExportError as error:
        return f"{source.name}, of which {TOKENIZER_JSON_NAME} fails ({error.got:.160})"
    return None
