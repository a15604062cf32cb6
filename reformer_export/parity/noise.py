"""How far eager is from itself: a model can be too sensitive for any tolerance that knows only the dtype."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.parity.compare import compare_outputs
from reformer_export.reference.runs import Eager, EagerRun

NOISE_UNITS: Final = 2
"""An error is eager's own up to so many times its noise: eager and the file each compute, to rounding, the
exact result of weights that differ from the stored ones in about the last place (backward error analysis, as
in Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 1.5)."""

DRAWS: Final = 3


def measure_noise(
    eager: Eager,
    truth: EagerRun,
    inputs: NDArray[Any],
    attention_mask: NDArray[np.int64],
    num_hashes: int | None,
) -> float:
    """The largest change of eager's outputs `truth`, where every weight changes in its last place.

    Inputs are ids int64 [B, L] or vectors float32 [B, L, hidden_size], the mask is int64 [B, L]. Of `DRAWS`
    draws those count in which every hash, and every choice of memories, stays as it is: what a flip moves is
    no rounding. 0 where none does.
    """
    noise = 0.0
    for seed in range(DRAWS):
        with eager.noisy_weights(seed):
            run = eager.run(inputs, attention_mask, num_hashes)
        if run.chooses_as(truth):
            noise = max(noise, compare_outputs(run.outputs, truth.outputs, attention_mask).worst)
    return noise
