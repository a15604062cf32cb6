"""The rotations that an artifact's record says, drawn again: the file's own are under test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reformer_export.ops import draw_rotations
from reformer_export.spec import LSHAttentionSpec, ModelSpec


def recorded_rotations(spec: ModelSpec, layer: int) -> NDArray[np.float32]:
    """Rotations [H, D, R, S] of LSH layer `layer`, from its seed."""
    attention = spec.layers[layer]
    assert isinstance(attention, LSHAttentionSpec)
    rotations: NDArray[np.float32] = draw_rotations(attention.hash_seed, spec.rotations_shape(layer)).numpy()
    return rotations
