"""One input on all that are compared: eager, the exposed graph, the runtime.

What differs between a model that a spec describes and a module of a user's own is here and in its twin
(module_trial.py); what is compared, and how it is judged, is the same for both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.parity.compare import OutputDifference, compare_outputs
from reformer_export.parity.noise import Outputs, measure_noise
from reformer_export.parity.point_errors import Judge, PointJudge
from reformer_export.reference.runs import EagerRun

if TYPE_CHECKING:
    from reformer_export.parity.session import ParitySession


class Trial(Protocol):
    """One input of an artifact."""

    @property
    def feeds(self) -> dict[str, NDArray[Any]]:
        """What the exposed graph takes."""

    def run_eager(self, points: Collection[str] | None = ()) -> EagerRun:
        """Eager's pass; `points` names the values to read besides the outputs, None for all."""

    def run_runtime(self) -> Outputs:
        """What the runtime gives when it hashes for itself."""

    def compare(self, got: Outputs, expected: Outputs) -> OutputDifference:
        """The differences of outputs where they count."""

    def judge(self, truth: EagerRun) -> PointJudge:
        """What compares values with those of eager's pass."""

    def measure_noise(self, truth: EagerRun) -> float:
        """How far eager's own outputs move when its weights change in their last place."""


@dataclass(frozen=True)
class ModelTrial:
    """Of a model that a spec describes: ids int64 [B, L], or vectors float32 [B, L, hidden_size], and a mask
    int64 [B, L]; `num_hashes` None for all rounds."""

    session: ParitySession
    inputs: NDArray[Any]
    mask: NDArray[np.int64]
    num_hashes: int | None = None

    @property
    def feeds(self) -> dict[str, NDArray[Any]]:
        return self.session.graph_inputs(self.inputs, self.mask, self.num_hashes)

    def run_eager(self, points: Collection[str] | None = ()) -> EagerRun:
        return self.session.eager.run(self.inputs, self.mask, self.num_hashes, points)

    def run_runtime(self) -> Outputs:
        return self.session.runtime.run(self.inputs, self.mask, self.num_hashes)

    def compare(self, got: Outputs, expected: Outputs) -> OutputDifference:
        return compare_outputs(dict(got), dict(expected), self.mask)

    def judge(self, truth: EagerRun) -> PointJudge:
        return Judge(self.session.spec, self.session.precision, truth.values, self.mask)

    def measure_noise(self, truth: EagerRun) -> float:
        return measure_noise(self.session.eager.model, truth, self.run_eager, self.compare)
