"""One input of a user's module on all that are compared; the twin of `trial.ModelTrial`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.custom_spec import CustomSpec, CustomTensor
from reformer_export.parity.compare import (
    Hashing,
    LayerAgreement,
    OutputDifference,
    Precision,
    compare_hashes,
    compare_outputs,
)
from reformer_export.parity.module_cases import masks_of
from reformer_export.parity.noise import Outputs, measure_noise
from reformer_export.parity.point_errors import PointError, PointJudge
from reformer_export.parity.points import Point
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.eager_values import Values
from reformer_export.reference.module import QUERY_KEY, layer_name
from reformer_export.reference.runs import EagerRun
from reformer_export.spec import LSHAttentionSpec

if TYPE_CHECKING:
    from reformer_export.parity.module_session import ModuleSession

NO_MASK = np.ones((0, 0), np.int64)


@dataclass(frozen=True)
class ModuleTrial:
    """`arrays`: the module's inputs by name; floats are float32, numbers of the artifact's dtype."""

    session: ModuleSession
    arrays: Mapping[str, NDArray[Any]]

    @property
    def feeds(self) -> dict[str, NDArray[Any]]:
        return dict(self.arrays)

    def run_eager(self, points: Collection[str] | None = ()) -> EagerRun:
        return self.session.module.run(self.arrays, points)

    def run_runtime(self) -> Outputs:
        found: dict[str, NDArray[np.float32]] = self.session.runtime.run(self.feeds)
        return found

    def compare(self, got: Outputs, expected: Outputs) -> OutputDifference:
        """Where there is a token, by the mask of the output's first two dimensions; elsewhere everything.

        An output whose largest expected element is above 1 counts relative to that; of integers and truth
        values 1 for every one that differs.
        """
        pairs = {each.name: self._pair(each, got, expected) for each in self.session.custom.outputs}
        counted_got = {name: pair[0] for name, pair in pairs.items()}
        return compare_outputs(counted_got, {name: pair[1] for name, pair in pairs.items()}, NO_MASK)

    def judge(self, truth: EagerRun) -> PointJudge:
        session = self.session
        mask = next(iter(self._masks().values()), None)
        query_keys = session.module_hashing.query_keys
        return ModuleJudge(session.custom, session.precision, truth.values, query_keys, mask)

    def measure_noise(self, truth: EagerRun) -> float:
        return measure_noise(self.session.module.model, truth, self.run_eager, self.compare)

    def _masks(self) -> dict[tuple[int | str, ...], NDArray[np.bool_]]:
        """By the dimensions that they have: which tokens there are, bool [B, L]."""
        masks = [each for each in masks_of(self.session.custom) if len(each.shape) == 2]
        return {each.shape: self.arrays[each.name].astype(np.bool_) for each in masks}

    def _pair(
        self, tensor: CustomTensor, got: Outputs, expected: Outputs
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """What counts of both, a row for each token."""
        value, reference = got[tensor.name], expected[tensor.name]
        if value.shape != reference.shape:
            return value, reference  # which is wrong by that
        mask = self._masks().get(tensor.shape[:2])
        if mask is not None and reference.shape[:2] == mask.shape:
            value, reference = value[mask], reference[mask]
        if reference.dtype.kind in "iub":
            value, reference = (value != reference).astype(np.float32), np.zeros(reference.shape, np.float32)
        scale = np.maximum(np.abs(reference).max(initial=0.0), 1.0)
        rows = (
            (-1, reference.shape[-1])
            if reference.ndim > 2
            else (-1,)
            if reference.ndim == 0
            else reference.shape
        )
        return (value / scale).reshape(rows), (reference / scale).reshape(rows)


@dataclass(frozen=True)
class ModuleJudge(PointJudge):
    """`query_keys`: by layer, the point that has what it hashes; `mask` bool [B, L], None without one."""

    spec: CustomSpec
    precision: Precision
    eager: Values
    query_keys: Mapping[int, str | None]
    mask: NDArray[np.bool_] | None

    def judge(self, points: Sequence[Point], got: Values, query_keys: Values) -> list[PointError]:
        """Of those that eager has: none of a part that it pads less than the graph does."""
        return super().judge([point for point in points if point.name in self.eager], got, query_keys)

    def name(self, layer: int) -> str:
        """Of one run of a layer."""
        return layer_name(self.spec, layer)

    def judged(self, point: Point) -> NDArray[np.bool_]:
        """Those of tokens that there are, where the first two axes are the mask's."""
        expected = self.eager[point.name]
        if point.role == "buckets":
            assert point.layer is not None
            counts = self.hashing(point.layer, expected, expected).counts[:, None, None, :]
        elif self.mask is not None and expected.shape[:2] == self.mask.shape and expected.ndim > 2:
            counts = self.mask.reshape(*self.mask.shape, *[1] * (expected.ndim - 2))
        else:
            counts = np.ones([1] * expected.ndim, np.bool_)
        return np.broadcast_to(counts, expected.shape)

    def count_flips(self, point: Point, got: Values, query_keys: Values) -> LayerAgreement:
        assert point.layer is not None
        buckets, expected = got[point.name], self.eager[point.name]
        if not self.spec.is_hashed(point.layer, expected.shape[3]):
            return LayerAgreement(point.layer, 0, 0, 0, 0.0)  # dense
        hashed = self.query_keys[point.layer]
        # Where there is none, the graph hashes one of its inputs, as eager does.
        found = self.eager[self.name(point.layer) + QUERY_KEY] if hashed is None else query_keys[hashed]
        vectors = found.reshape(len(expected), expected.shape[3], -1)
        hashing = self.hashing(point.layer, buckets, expected)
        return compare_hashes(point.layer, hashing, self.precision, buckets, expected, vectors)

    def hashing(self, layer: int, got: NDArray[np.int32], expected: NDArray[np.int32]) -> Hashing:
        """How the layer hashes; `got` and `expected` int32 [B, H, R, K]: a token counts that is not masked in
        both, as transformers' bucket behind the last says."""
        attention, use = self.spec.layers[layer], self.spec.uses[layer]
        assert isinstance(attention, LSHAttentionSpec)
        factors = attention.num_buckets or (2 * -(-expected.shape[3] // (2 * attention.chunk_length)),)
        behind = int(np.prod(factors))
        counts = (got[:, 0, 0] != behind) | (expected[:, 0, 0] != behind)
        rotations = recorded_rotations(self.spec, layer)
        return Hashing(use.num_heads, use.head_size, factors, rotations, counts)
