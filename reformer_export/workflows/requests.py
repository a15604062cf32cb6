"""What a workflow is asked for: one frozen dataclass each, given whole or by its fields."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from reformer_export.errors import InputError

Request = TypeVar("Request")


def request_from_fields(kind: type[Request], request: Request | None, fields: dict[str, Any]) -> Request:
    """`request`, or one of `fields`; InputError for both at once and for a field that does not exist."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in fields if name not in names]
    if unknown or (request is not None and fields):
        raise InputError(
            "options",
            unknown[0] if unknown else f"a {kind.__name__} and {', '.join(fields)}",
            f"a {kind.__name__}, or fields of it: {', '.join(names)}",
            f"see `help({kind.__module__}.{kind.__name__})`",
        )
    return kind(**fields) if request is None else request
