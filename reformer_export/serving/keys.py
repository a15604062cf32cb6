"""API keys: read from a file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from reformer_export.errors import InputError, reason_of
from reformer_export.serving.refusals import UnauthorizedError

OPEN_PATHS: Final = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
"""What is answered without a key: health, for a load balancer that has none, and the page, which holds
nothing but a box to put a key and a text into."""
MAX_FILE_BYTES: Final = 2**16
LEAST_CHARACTERS: Final = 16
_SCHEME: Final = "bearer "


class KeyRing:
    """The keys that requests may name, as `Authorization: Bearer KEY`; of none, every request passes."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, path: str, authorization: str | None) -> None:
        """UnauthorizedError unless the request to `path` may pass with this header.

        Every key's digest is compared, each in constant time: how long it takes tells nothing of any.
        """
        if not self._digests or path in OPEN_PATHS:
            return
        given = authorization or ""
        is_bearer = given[: len(_SCHEME)].lower() == _SCHEME
        digest = _digest(given[len(_SCHEME) :].strip() if is_bearer else "")
        matches = [hmac.compare_digest(digest, each) for each in self._digests]
        if not (is_bearer and any(matches)):
            got = "another key" if is_bearer else "none"
            fix = "send it as the header Authorization: Bearer KEY"
            raise UnauthorizedError("API key", got, "one of this server's keys", fix)


def read_keys(path: Path | None) -> KeyRing:
    """The keys of a file, one a line, empty lines and those that begin with # left out; InputError for a file
    that has none, or one that is too short to be a secret."""
    if path is None:
        return KeyRing(())
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        fix = "check the path, or make one, e.g. with `openssl rand -hex 32`"
        got = f"{path}, which cannot be read ({reason_of(error)})"
        raise InputError("api_key_file", got, "a file of ASCII keys", fix) from error
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    expected = f"keys of at least {LEAST_CHARACTERS} characters without spaces, one a line"
    if len(content) > MAX_FILE_BYTES or not keys:
        got = f"{path} of {len(content)} bytes with {len(keys)} keys"
        raise InputError("api_key_file", got, expected, "make one, e.g. with `openssl rand -hex 32`")
    if any(len(key) < LEAST_CHARACTERS or not key.isprintable() or " " in key for key in keys):
        got = f"{path} with a key that is shorter, or holds a space"
        raise InputError("api_key_file", got, expected, "make one, e.g. with `openssl rand -hex 32`")
    return KeyRing(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
