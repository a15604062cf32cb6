"""Texts before which a generated text ends, found in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from reformer_export.errors import InputError

MAX_STRINGS: Final = 16
MAX_CHARACTERS: Final = 1024


def check_stop_strings(strings: Sequence[str]) -> None:
    """InputError for more than a stream should look for, or none of a text."""
    is_short = all(0 < len(string) <= MAX_CHARACTERS for string in strings)
    if len(strings) > MAX_STRINGS or not is_short:
        got = f"{len(strings)} texts of {', '.join(str(len(string)) for string in strings[:5])} characters"
        expected = f"at most {MAX_STRINGS} texts of 1 to {MAX_CHARACTERS} characters"
        raise InputError("stop", got, expected, "shorten it, or leave it out")


class StopStrings:
    """Passes a text on as it comes, up to the first of the stop strings.

    What could be the beginning of one is held back until it is decided.

    Attributes:
        found: whether one has come; nothing is passed on then.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.found = False
        self._strings = tuple(strings)
        self._held = ""

    def add(self, piece: str) -> str:
        """What may be passed on now that `piece` has come."""
        if not self._strings:
            return piece
        if self.found or not piece:
            return ""
        text = self._held + piece
        places = [place for place in map(text.find, self._strings) if place >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        keep = max(_count_begun(text, string) for string in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back, where nothing more comes."""
        held, self._held = self._held, ""
        return held


def _count_begun(text: str, string: str) -> int:
    """The most characters at the end of `text` with which `string` begins, all of it excepted."""
    longest = min(len(text), len(string) - 1)
    return next((count for count in range(longest, 0, -1) if text.endswith(string[:count])), 0)
