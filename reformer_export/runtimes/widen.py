"""Floats of any type as the float32 of callers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def widen(values: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 copy of an output; bfloat16, which numpy does not know, is uint16 here."""
    if values.dtype == np.uint16:  # the upper half of a float32
        return np.asarray(values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def narrow(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Finite `values` in `dtype`, rounded to the nearest, of two to the even one; uint16 is bfloat16."""
    if dtype != np.uint16:
        return values.astype(dtype, copy=False)
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    return np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, np.uint16)
