"""Whether this environment can open real engines, up to where a GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest

from reformer_export.errors import MissingDependencyError
from reformer_export.runtimes.tensorrt.cuda import CudaBindingsDevice
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
    if CudaBindingsDevice(require_cuda_bindings()).has_driver():
        pytest.skip("there is a driver here; tests/gpu has more")
