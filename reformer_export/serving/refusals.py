"""What a server refuses, and the HTTP status of every error; one line of what, got, expected and fix.

`status_from_error` is the one table. Errors of the package that have no status of their own are the request's
fault (400) where they are an InputError, and the server's (500) where they are anything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from reformer_export.errors import InputError, ReformerExportError, RuntimeUnavailableError

CLIENT_GONE: Final = 499
"""What the log says of a request whose client left before the answer; never sent."""
INTERNAL: Final = 500


class RefusalError(ReformerExportError):
    """A request that the server does not answer as it was asked; `status` is the HTTP status of that."""

    status: ClassVar[int] = 400

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, besides the usual ones."""
        return {}


class UnknownNameError(InputError):
    """A parameter that there is not; `what` is the request's own word, which the log does not repeat."""


class UnauthorizedError(RefusalError):
    """No key, or none that the server knows."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(RefusalError):
    """A request that came by a name that is not the server's."""

    status = 403


class NotFoundError(RefusalError):
    """A model, a version or a page that there is not."""

    status = 404


class SlowClientError(RefusalError):
    """A client that took too long to send its request."""

    status = 408


class TooLargeError(RefusalError):
    """A request, or its answer, of more bytes than are allowed."""

    status = 413


class UnsupportedTypeError(RefusalError):
    """A body in an encoding that the server does not read."""

    status = 415


class QueueFullError(RefusalError):
    """More requests wait than are allowed; `retry_after` seconds from now there may be room."""

    status = 429

    def __init__(self, *parts: object, retry_after: float = 1.0) -> None:
        super().__init__(*parts)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


class ClientGoneError(RefusalError):
    """The client closed its connection; nobody reads the answer."""

    status = CLIENT_GONE


class NotReadyError(RefusalError):
    """A model whose worker does not run; the reason is in its words."""

    status = 503

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "5"}


class TimedOutError(RefusalError):
    """An answer that took longer than is allowed."""

    status = 504


def status_from_error(error: BaseException) -> int:
    """The HTTP status that tells of `error`."""
    if isinstance(error, RefusalError):
        return error.status
    if isinstance(error, InputError):
        return 400
    return 503 if isinstance(error, RuntimeUnavailableError) else INTERNAL


def headers_from_error(error: BaseException) -> Mapping[str, str]:
    """The headers that go with it."""
    return error.headers if isinstance(error, RefusalError) else {}


def words_from_error(error: BaseException) -> str:
    """What the client is told: an error that nobody foresaw is not shown to strangers."""
    if isinstance(error, ReformerExportError):
        return " ".join(str(error).split())
    return "internal error; the server's log says more"


def body_from_error(path: str, error: BaseException) -> dict[str, Any]:
    """The body of the answer, in the shape that clients of the route `path` read."""
    words = words_from_error(error)
    if path.startswith("/v1/"):
        status = status_from_error(error)
        kind = "invalid_request_error" if status < INTERNAL else "server_error"
        what = error.what.split(",")[0] if isinstance(error, InputError | NotFoundError) else ""
        param = what if what.isidentifier() else None
        code = "model_not_found" if isinstance(error, NotFoundError) and param == "model" else None
        return {"error": {"message": words, "type": kind, "param": param, "code": code}}
    return {"error": words}


def parts_from_error(error: ReformerExportError) -> tuple[str, str, str, str]:
    """The four parts of an error, to send them to another process."""
    return error.what, error.got, error.expected, error.fix
