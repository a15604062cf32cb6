"""What a test needs beyond Python: skipped where it is missing, unless the run insists (REQUIRE_NATIVE=1)."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_unless_required(reason: str) -> NoReturn:
    """Skip the test for `reason`; with REQUIRE_NATIVE=1, as in CI, what is missing is a failure."""
    if os.environ.get("REQUIRE_NATIVE"):
        pytest.fail(f"REQUIRE_NATIVE is set: {reason}")
    pytest.skip(reason)
