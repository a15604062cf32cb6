"""How to serve, in one description: for the command line and for programs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict

from reformer_export.errors import InputError, one_line_repr
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.options import RuntimeOptions, max_threads

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_PORT: Final = 65535
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names and addresses of this machine that no other can reach."""


@dataclass(frozen=True)
class Artifact:
    """An artifact to serve: the `name` that requests say, and the `path` of its folder, or its hub id."""

    name: str
    path: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            expected = "letters, digits, '.', '_' and '-', at most 128, the first a letter or digit"
            fix = f"name it: NAME={self.path}"
            raise InputError("OUT", f"the name {one_line_repr(self.name)}", expected, fix)


def artifact_from_text(text: str) -> Artifact:
    """NAME=PATH, or PATH alone, whose last part is the name then."""
    name, separator, path = text.partition("=")
    if separator and path and "/" not in name:
        return Artifact(name, path)
    return Artifact(Path(os.path.abspath(text)).name, text)


@dataclass(frozen=True)
class ServeOptions:
    """What is served, where, and within which limits.

    Attributes:
        artifacts: what is served, each under another name; also as text: NAME=PATH, or PATH alone.
        host: the address that is listened on.
        port: the port; 0 for any free one.
        runtime: how workers open the artifacts; `threads` is of one run: None means 1 on the CPU, where
            `concurrency` runs go on at once.
        concurrency: runs of a model at once; None for as many as cores on the CPU, one on a GPU.
        max_batch: rows of a batch at most.
        max_batch_tokens: tokens of a batch at most, padding included (a longer request runs alone); None for
            256 on the CPU, where more gain nothing, and 16,384 on a GPU.
        max_delay: milliseconds that a request waits for company while a run could begin. Requests that come
            while all runs are taken join anyway.
        max_queue: requests of a model that wait at most; the next is refused (429).
        max_streams: sequences of a model that are generated at once; others wait in the queue.
        max_cache: bytes of caches that the generations of a model may take; others wait in the queue.
        max_new_tokens: tokens of one generation at most.
        timeout: seconds from a request to its answer, or to the first piece of one that is streamed (504).
        max_body: bytes of a request's body (413).
        max_response: bytes of an answer's tensors (413).
        max_connections: connections at once; a request on one more is refused (503).
        client_timeout: seconds that a client may take to send a request, or to take what was sent to it,
            before its connection is closed (408 for a request).
        keep_alive: seconds that a connection may rest between requests.
        drain: seconds, after SIGTERM, in which accepted requests are finished.
        api_key_file: a file of keys, one a line, of which requests have to name one; None for no keys.
        allow_hosts: names by which clients may call the server, besides its address; given, others are
            refused (403). Without them, a server on a loopback address takes only loopback names.
        log_inputs: write what users send (token ids, texts) into the log.
    """

    artifacts: tuple[Artifact, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    concurrency: int | None = None
    max_batch: int = 32
    max_batch_tokens: int | None = None
    max_delay: float = 0.0
    max_queue: int = 256
    max_streams: int = 32
    max_cache: int = 4 * 2**30
    max_new_tokens: int = 4096
    timeout: float = 60.0
    max_body: int = 8 * 2**20
    max_response: int = 256 * 2**20
    max_connections: int = 1024
    client_timeout: float = 30.0
    keep_alive: float = 75.0
    drain: float = 30.0
    api_key_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    log_inputs: bool = False

    def __post_init__(self) -> None:
        given = [self.artifacts] if isinstance(self.artifacts, str) else self.artifacts
        if isinstance(given, list | tuple):
            named = tuple(artifact_from_text(each) if isinstance(each, str) else each for each in given)
            object.__setattr__(self, "artifacts", named)
        check_field_types(self)
        if not self.artifacts:
            raise InputError("OUT", "no artifact", "at least one", "name its folder")
        names = [artifact.name for artifact in self.artifacts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError("OUT", f"two artifacts named {twice}", "a name for each", "use NAME=PATH")
        self._check_number("port", 0, MAX_PORT)
        if self.concurrency is not None:
            self._check_number("concurrency", 1, max_threads())
        if self.max_batch_tokens is not None:
            self._check_number("max_batch_tokens", 1, 2**31)
        for name, least in _LEAST.items():
            self._check_number(name, least, _MOST)

    def _check_number(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not least <= value <= most:
            raise InputError(name, one_line_repr(value), f"{least:.15g} to {most:.15g}", "choose another")


_MOST: Final = 2.0**40
_LEAST: Final[dict[str, float]] = {
    "max_batch": 1,
    "max_delay": 0,
    "max_queue": 1,
    "max_streams": 1,
    "max_cache": 1024,
    "max_new_tokens": 1,
    "timeout": 0.001,
    "max_body": 1024,
    "max_response": 1024,
    "max_connections": 1,
    "client_timeout": 0.1,
    "keep_alive": 0,
    "drain": 0,
}


class ServeFields(TypedDict, total=False):
    """The fields of `ServeOptions` as keywords, for type checkers and editors."""

    artifacts: Sequence[Artifact | str] | str
    host: str
    port: int
    runtime: RuntimeOptions
    concurrency: int | None
    max_batch: int
    max_batch_tokens: int | None
    max_delay: float
    max_queue: int
    max_streams: int
    max_cache: int
    max_new_tokens: int
    timeout: float
    max_body: int
    max_response: int
    max_connections: int
    client_timeout: float
    keep_alive: float
    drain: float
    api_key_file: Path | None
    allow_hosts: tuple[str, ...]
    log_inputs: bool
