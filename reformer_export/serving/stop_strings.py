"""Texts before which a generated text ends, found in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


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
