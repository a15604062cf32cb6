"""Whether this environment can open real engines, up to where a GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest

from reformer_export.errors import MissingDependencyError, RuntimeUnavailableError
from reformer_export.libraries.gpus import find_gpus
from reformer_export.runtimes.tensorrt.packages import import_cuda
from tests.required import skip_unless_required


def require_cuda_bindings() -> Any:
    """The module cuda.bindings.runtime; without it the test is skipped, or fails in CI."""
    try:
        return import_cuda()
    except MissingDependencyError as error:
        skip_unless_required(str(error))


def require_no_driver() -> None:
    """Skips the test where there is a GPU's driver, which would be given made-up work."""
    try:
        got = str(find_gpus())
    except RuntimeUnavailableError as error:
        got = error.got
    if got != "no NVIDIA driver":
        pytest.skip(f"there is a driver here ({got}); tests/gpu has more")
