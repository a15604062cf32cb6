# SPDX-License-Identifier: Apache-2.0
"""The text that the byte-level models learn: the King James Bible, its bytes the tokens.

The text is what the ``bible`` command prints (Debian package ``bible-kjv``); the last books, Colossians to
Revelation, are held out for validation.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess

import torch
from torch import Tensor

BYTE_OFFSET = 2  # id 0 is padding, id 1 ends a text, a byte b is id b + 2
VOCABULARY_SIZE = 256 + BYTE_OFFSET
FIRST_HELD_OUT_BOOK = "Colossians"
SAMPLE_PROMPT = "And it came to pass"
BOOK_NAMES = (
    "Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1_Samuel 2_Samuel 1_Kings "
    "2_Kings 1_Chronicles 2_Chronicles Ezra Nehemiah Esther Job Psalm Proverbs Ecclesiastes "
    "Song_of_Solomon Isaiah Jeremiah Lamentations Ezekiel Daniel Hosea Joel Amos Obadiah Jonah "
    "Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts Romans "
    "1_Corinthians 2_Corinthians Galatians Ephesians Philippians Colossians 1_Thessalonians "
    "2_Thessalonians 1_Timothy 2_Timothy Titus Philemon Hebrews James 1_Peter 2_Peter 1_John "
    "2_John 3_John Jude Revelation"
)
VERSE = re.compile(r"(?P<book>\d?[A-Za-z]+)(?P<chapter>\d+):\d+ (?P<text>.+)")


def dump_bible() -> list[str]:
    """Return the whole Bible, one verse with its reference a line, from the ``bible`` command."""
    command = shutil.which("bible")
    if command is None:
        raise SystemExit(
            "The `bible` command is missing; on Debian or Ubuntu it comes with:\n"
            "    apt-get install bible-kjv bible-kjv-text"
        )
    dump = subprocess.run([command, "-f", "Genesis1:1-Revelation22:21"], check=True, capture_output=True)
    return dump.stdout.decode("latin-1").splitlines()


def normalise(lines: list[str]) -> tuple[str, str]:
    """Turn the dump into clean prose and split it into training and held-out text.

    A chapter is a heading such as ``Genesis 1``, one verse a line without its number, and an
    empty line.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    books = iter(BOOK_NAMES.split())
    held_out = False
    abbreviation, chapter, name = "", "", ""
    for line in lines:
        verse = VERSE.fullmatch(line.strip())
        if verse is None:
            raise SystemExit(f"The `bible` command printed a line without a reference: {line!r}")
        if verse["book"] != abbreviation:
            abbreviation, chapter, name = verse["book"], "", next(books).replace("_", " ")
            held_out = held_out or name == FIRST_HELD_OUT_BOOK
        target = parts[held_out]
        if verse["chapter"] != chapter:
            chapter = verse["chapter"]
            target.append(f"\n{name} {chapter}" if target else f"{name} {chapter}")
        target.append(" ".join(verse["text"].split()))
    return "\n".join(parts[False]) + "\n", "\n".join(parts[True]) + "\n"


def encode(text: str) -> Tensor:
    """Return the token ids of ``text``: its bytes, shifted past the special ids."""
    return torch.tensor(list(text.encode("latin-1")), dtype=torch.long) + BYTE_OFFSET


def decode(ids: Tensor) -> str:
    """Return the text of token ids, special ids left out."""
    values = [i - BYTE_OFFSET for i in ids.tolist() if i >= BYTE_OFFSET]
    return bytes(values).decode("latin-1")


def compressor_baselines(train_text: str, held_out_text: str) -> dict[str, float]:
    """Return bits per character of general compressors on the held-out text.

    ``xz_primed`` is what xz needs for the held-out text once it has seen the training text.
    """
    train, held_out = train_text.encode("latin-1"), held_out_text.encode("latin-1")

    def xz(data: bytes) -> int:
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    bits = 8 / len(held_out)
    return {
        "gzip_9": round(len(gzip.compress(held_out, 9)) * bits, 4),
        "xz_9e": round(xz(held_out) * bits, 4),
        "xz_9e_primed": round((xz(train + held_out) - xz(train)) * bits, 4),
    }
