"""Outputs of any type of floats as the float32 that callers get."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def widen(values: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 copy of an output; bfloat16, which numpy does not know, is uint16 here."""
    if values.dtype == np.uint16:  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
