"""How far eager is from itself: a model can be too sensitive for any tolerance that knows only the dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.parity.compare import OutputDifference
from reformer_export.reference.runs import EagerRun, noisy_weights

Outputs = Mapping[str, NDArray[np.float32]]


NOISE_UNITS: Final = 2
"""An error is eager's own up to so many times its noise: eager and the file each compute, to rounding, the
exact result of weights that differ from the stored ones in about the last place (backward error analysis, as
in Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 1.5)."""

DRAWS: Final = 3


def measure_noise(
    model: torch.nn.Module,
    truth: EagerRun,
    run: Callable[[], EagerRun],
    compare: Callable[[Outputs, Outputs], OutputDifference],
) -> float:
    """The largest change of eager's outputs, by `compare`, from `truth`, where every weight of its `model`
    changes in its last place and eager makes the pass `run` again.

    Of `DRAWS` draws those count in which every hash, and every choice of memories, stays as it is: what a
    flip moves is no rounding. 0 where none does.
    """
    noise = 0.0
    for seed in range(DRAWS):
        with noisy_weights(model, seed):
            noisy = run()
        if noisy.chooses_as(truth):
            noise = max(noise, compare(noisy.outputs, truth.outputs).worst)
    return noise
