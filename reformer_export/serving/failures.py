"""What a worker tells the front of an error."""

from __future__ import annotations

import sys

from reformer_export.errors import ReformerExportError, one_line
from reformer_export.serving.messages import Failure
from reformer_export.serving.refusals import parts_from_error


def failure_from_error(request_id: int, error: Exception) -> Failure:
    """The message of an error; one that nobody foresaw is described on standard error too."""
    if isinstance(error, ReformerExportError):
        return Failure(request_id, type(error).__name__, parts_from_error(error))
    print(f"Error: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
    parts = ("model", f"'{type(error).__name__}'", "an answer", "see the server's log, and please report it")
    return Failure(request_id, "ReformerExportError", parts)
