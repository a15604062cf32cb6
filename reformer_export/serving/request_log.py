"""The server's log: one JSON object a line; no texts or token ids of users unless that is asked for."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TextIO

import msgspec
from starlette.requests import HTTPConnection


@dataclass
class RequestRecord:
    """What is known of a request once it is over; endpoints fill in what they learn.

    `route`: the pattern that matched, not what the client wrote; `status`: 499 for a client that left;
    `tokens`: of the input (and `new_tokens` of an answer); `queue_ms`, `run_ms`: waiting and running;
    `batch`: rows that ran together; `error`: which part was refused, without what the user sent; `inputs`:
    shown only with `log_inputs`.
    """

    id: str
    method: str
    route: str = ""
    status: int = 0
    model: str | None = None
    tokens: int | None = None
    new_tokens: int | None = None
    queue_ms: float | None = None
    run_ms: float | None = None
    batch: int | None = None
    bytes_out: int = 0
    error: str | None = None
    inputs: Any = None
    begun: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun


def record_of(request: HTTPConnection) -> RequestRecord:
    """The record of a request that goes on."""
    record: RequestRecord = request.scope["state"]["record"]
    return record


class Log:
    """Lines on `stream`, standard output where none is given; a stream that is gone ends the lines, not the
    server."""

    def __init__(self, stream: TextIO | None = None, log_inputs: bool = False) -> None:
        self._stream: TextIO | None = stream or sys.stdout
        self._log_inputs = log_inputs

    def say(self, event: str, **fields: Any) -> None:
        """Write what happened."""
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._write({"time": moment, "event": event, **fields})

    def write_request(self, record: RequestRecord) -> None:
        """Write a request that is over."""
        known = {
            "model": record.model,
            "tokens": record.tokens,
            "new_tokens": record.new_tokens,
            "batch": record.batch,
            "queue_ms": _rounded(record.queue_ms),
            "run_ms": _rounded(record.run_ms),
            "error": record.error,
            "inputs": record.inputs if self._log_inputs else None,
        }
        self.say(
            "request",
            id=record.id,
            method=record.method,
            route=record.route,
            status=record.status,
            **{name: value for name, value in known.items() if value is not None},
            bytes=record.bytes_out,
            ms=_rounded(1e3 * record.seconds),
        )

    def _write(self, values: dict[str, Any]) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(msgspec.json.encode(values).decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed
            self._stream = None
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write("Note: the log cannot be written any more; the server goes on.\n")


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)
