"""Protobuf's text format, as far as config.pbtxt uses it: values to text and back.

A message is a dict. A repeated field is a list, a map a list of {"key": ..., "value": ...}; an enum's value
is a `Word`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from reformer_export.errors import ArtifactError

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 16

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<mark>[{}\[\]<>:,;])|(?P<word>[A-Za-z_][A-Za-z0-9_.]*)"""
    r"""|(?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"""
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
)
_CLOSING: Final = {"{": "}", "<": ">"}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}
_ESCAPED: Final = re.compile(r"\\(.)")


class Word(str):
    """The name of an enum's value, which stands without quotes."""

    __slots__ = ()


def text_from_message(message: Mapping[str, Any], indent: str = "") -> str:
    """The fields of a message, a line each."""
    lines = []
    for name, value in message.items():
        is_scalars = isinstance(value, list) and not any(isinstance(each, Mapping) for each in value)
        if is_scalars:
            lines.append(f"{indent}{name}: [ {', '.join(map(_text_from_scalar, value))} ]\n")
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                lines.append(f"{indent}{name} {{\n{text_from_message(each, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_text_from_scalar(each)}\n")
    return "".join(lines)


def _text_from_scalar(value: bool | int | str) -> str:
    if isinstance(value, Word | bool):
        return str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def message_from_text(what: object, text: str) -> dict[str, list[Any]]:
    """The fields of a message, each with all its values in order; ArtifactError, which names `what`, for text
    that is none."""
    if len(text) > MAX_BYTES:
        raise _refuse(what, f"{len(text)} characters")
    return _read_message(_Tokens(what, text), end="", depth=0)


class _Tokens:
    """The parts of a text, one at a time."""

    def __init__(self, what: object, text: str) -> None:
        self.what = what
        self._tokens = _split(what, text)
        self.kind, self.token = "", ""
        self.advance()

    def advance(self) -> str:
        """The token that was looked at; the next is looked at then, "" at the end."""
        token = self.token
        self.kind, self.token = next(self._tokens, ("end", ""))
        return token

    def take(self, *tokens: str) -> bool:
        """Whether one of `tokens` comes; it is then passed."""
        found = self.kind == "mark" and self.token in tokens
        if found:
            self.advance()
        return found


def _split(what: object, text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            raise _refuse(what, f"{text[position : position + 20]!r} at character {position}")
        position = found.end()
        if found.lastgroup != "skip":
            yield found.lastgroup, found.group()


def _read_message(tokens: _Tokens, end: str, depth: int) -> dict[str, list[Any]]:
    if depth > MAX_DEPTH:
        raise _refuse(tokens.what, f"messages in each other, {depth} deep")
    message: dict[str, list[Any]] = {}
    while tokens.kind == "word":
        values = message.setdefault(tokens.advance(), [])
        has_colon = tokens.take(":")
        if tokens.take("["):
            while not tokens.take("]"):
                values.append(_read_value(tokens, True, depth))
                tokens.take(",")
        else:
            values.append(_read_value(tokens, has_colon, depth))
        tokens.take(",", ";")
    if (tokens.token if tokens.kind == "mark" else tokens.kind.replace("end", "")) != end:
        raise _refuse(tokens.what, f"{tokens.token!r:.40} in the place of a field's name")
    tokens.advance()
    return message


def _read_value(tokens: _Tokens, has_colon: bool, depth: int) -> Any:
    for opening, closing in _CLOSING.items():
        if tokens.take(opening):
            return _read_message(tokens, closing, depth + 1)
    kind, token = tokens.kind, tokens.advance()
    if has_colon and kind == "word":
        return {"true": True, "false": False}.get(token, Word(token))
    if has_colon and kind == "number":
        return int(token) if token.lstrip("+-").isdigit() else float(token)
    if has_colon and kind == "text":
        parts = [token]
        while tokens.kind == "text":  # neighbours are one
            parts.append(tokens.advance())
        return "".join(_ESCAPED.sub(lambda e: _ESCAPES.get(e[1], e[1]), part[1:-1]) for part in parts)
    raise _refuse(tokens.what, f"{token!r:.40} in the place of a value")


def _refuse(what: object, got: str) -> ArtifactError:
    fix = "mend it, or write the repository again"
    return ArtifactError(what, got, "a model's configuration in protobuf's text format", fix)
