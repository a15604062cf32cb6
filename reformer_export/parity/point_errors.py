"""How far the values of a graph's points are from eager's, point by point."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.parity.compare import (
    TOLERANCE,
    LayerAgreement,
    Precision,
    compare_buckets,
    greatest_difference,
    hashed_tokens,
)
from reformer_export.parity.memories import compare_memories
from reformer_export.parity.points import CHOICES, Point
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.eager_values import Values, memory_name
from reformer_export.reference.lucidrains_values import LOCAL_HEADS, OPERATOR
from reformer_export.spec import ModelSpec

_BY_ROW: Final = (".query_norm", ".choice")
"""Ends of names of a product-key memory's values that have no axis for the batch."""

SMALLEST_MAGNITUDE: Final = 1e-3
"""Errors of a value that is nowhere greater are judged as if it were so great: float16 is coarse there."""


@dataclass(frozen=True)
class PointError:
    """A point's difference from eager.

    `error`: the largest absolute difference over unmasked tokens, or for buckets the number of unexplained
    flips; `greatest`: the largest magnitude of eager's; `tolerance`: the limit of `error`; `agreement`: the
    flips, for buckets.
    """

    point: Point
    error: float
    greatest: float
    tolerance: float
    agreement: LayerAgreement | None = None

    @property
    def agrees(self) -> bool:
        return self.error <= self.tolerance

    @property
    def share(self) -> float:
        """The error as a share of its tolerance."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else float("inf")
        return self.error / self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the agreement as "flips"."""
        return {
            "point": self.point.name,
            "module": self.point.module,
            "layer": self.point.layer,
            "error": self.error,
            "tolerance": self.tolerance,
            "greatest": self.greatest,
            "flips": self.agreement and dataclasses.asdict(self.agreement),
        }


class PointJudge(ABC):
    """Compares one run's values with `eager`'s, by point."""

    precision: Precision
    eager: Values

    def judge(self, points: Sequence[Point], got: Values, query_keys: Values) -> list[PointError]:
        """The error of each point that `got` has; `query_keys` has what each hash hashed, by point."""
        return [
            self._judge_choices(point, got, query_keys)
            if point.role in CHOICES
            else self._judge_values(point, got[point.name])
            for point in points
            if point.name in got
        ]

    @abstractmethod
    def judged(self, point: Point) -> NDArray[np.bool_]:
        """Which elements of eager's value count, of its shape."""

    @abstractmethod
    def count_flips(self, point: Point, got: Values, query_keys: Values) -> LayerAgreement:
        """How the buckets or memories at `point`, of eager's shape, agree with eager's; `query_keys` as in
        `judge`, with the queries of memories."""

    def _judge_values(self, point: Point, got: NDArray[Any]) -> PointError:
        expected, judged = self.eager[point.name], self.judged(point)
        greatest = float(np.abs(expected[judged]).max(initial=0.0))
        limit = TOLERANCE[self.precision] * max(greatest, SMALLEST_MAGNITUDE)
        return PointError(point, greatest_difference(got, expected, judged), greatest, limit)

    def _judge_choices(self, point: Point, got: Values, query_keys: Values) -> PointError:
        expected = self.eager[point.name]
        greatest = float(expected.max(initial=0))
        if got[point.name].shape != expected.shape:
            return PointError(point, float("inf"), greatest, 0.0)
        agreement = self.count_flips(point, got, query_keys)
        return PointError(point, float(agreement.unexplained), greatest, 0.0, agreement)


@dataclass(frozen=True)
class Judge(PointJudge):
    """Of a model that `spec` describes: `attention_mask` int64 [B, L]."""

    spec: ModelSpec
    precision: Precision
    eager: Values
    attention_mask: NDArray[np.int64]

    def judged(self, point: Point) -> NDArray[np.bool_]:
        """Those of unmasked tokens, or of all where masked ones hash
        and move the others; broadcast to its shape."""
        expected = self.eager[point.name]
        if point.role == "buckets":
            mask = hashed_tokens(self.spec, self.attention_mask, expected)[:, None, None, :]
        elif point.name.startswith(f"{memory_name(point.layer or 0)}.") and point.name.endswith(_BY_ROW):
            mask = self._rows_that_ask().reshape(-1, 1, 1)
        elif isinstance(self.spec, LucidrainsSpec):
            mask = count_rows(self.spec, self.attention_mask, expected, point)
        elif expected.shape[:2] == self.attention_mask.shape and (
            expected.ndim == 3 or point.name.endswith("_logits")
        ):
            mask = self.attention_mask.reshape(*self.attention_mask.shape, *[1] * (expected.ndim - 2)) == 1
        else:  # positions have no batch, and a classifier's rows no tokens
            mask = np.ones([1] * expected.ndim, np.bool_)
        return np.broadcast_to(mask, expected.shape)

    def count_flips(self, point: Point, got: Values, query_keys: Values) -> LayerAgreement:
        assert point.layer is not None
        if point.role == "memories":
            return self._compare_memories(point.layer, got[point.name], query_keys)
        buckets = got[point.name]
        return compare_buckets(
            point.layer,
            self.spec,
            self.precision,
            buckets,
            self.eager[point.name],
            self._hashed_part(query_keys[point.module + ".query_key"], buckets),
            recorded_rotations(self.spec, point.layer),
            self.attention_mask,
        )

    def _hashed_part(self, query_key: NDArray[np.float32], buckets: NDArray[np.int32]) -> NDArray[np.float32]:
        """[B, L, H*D] of the heads that hash, which are the last, where others attend locally."""
        by_token = query_key.reshape(len(buckets), buckets.shape[3], -1)
        return by_token[..., -self.spec.num_hash_heads * self.spec.head_size :]

    def _compare_memories(self, layer: int, got: NDArray[np.int64], queries: Values) -> LayerAgreement:
        """`got` int64 [B * L, H, k]."""
        memory = memory_name(layer)
        return compare_memories(
            layer,
            self.precision,
            got,
            self.eager[f"{memory}.choice"],
            queries[f"{memory}.query_norm"],
            self.eager[f"{memory}.keys"],
            self._rows_that_ask().ravel(),
        )

    def _rows_that_ask(self) -> NDArray[np.bool_]:
        """Which of the rows that the graph has count where they ask a product-key memory, bool [B, L]: masked
        tokens, and those that eager pads with, where they hash and so matter to others; those that only the
        graph pads with never do."""
        assert isinstance(self.spec, LucidrainsSpec)
        batch, length = self.attention_mask.shape
        rows = self.spec.keys_in_graph(length) - self.spec.num_memory_keys
        counts = np.zeros((batch, rows), np.bool_)
        if self.spec.hashes(length):
            counts[:, : self.spec.padded_length(length)] = True
        counts[:, :length] |= self.attention_mask == 1
        return counts


def count_rows(
    spec: LucidrainsSpec, attention_mask: NDArray[np.int64], value: NDArray[Any], point: Point
) -> NDArray[np.bool_]:
    """Which rows of eager's value [B, rows, size] or [rows, size] count, of reformer-pytorch's model;
    broadcasts to its shape.

    Where any layer hashes all do, since masked and padded tokens move the chunks of others; else masked ones
    are nobody's concern, and the graph may pad where eager does not. A layer's memory stands first and
    counts. What an operator gives counts for unmasked tokens, and in local heads for all that may see one:
    eager has nothing of the memory, and the graph replaces the rest.
    """
    length, rows = attention_mask.shape[1], value.shape[-2]
    keys, is_operator = spec.keys_in_graph(length), point.role == "unmasked"
    padded = keys - spec.num_memory_keys
    if rows not in (length, padded, keys) or (spec.hashes(length) and not is_operator):
        return np.ones([1] * value.ndim, np.bool_)
    memory = spec.num_memory_keys if rows == keys else 0
    tokens = attention_mask == 1 if value.ndim == 3 else np.ones((1, length), np.bool_)
    counts = np.zeros((len(tokens), rows), np.bool_)
    counts[:, :memory] = not is_operator
    counts[:, memory : memory + length] = tokens
    if spec.hashes(length) and point.name.endswith(LOCAL_HEADS + OPERATOR):
        counts |= _see_any(spec, counts)
    return counts[..., None] if value.ndim == 3 else counts[0, :, None]


def _see_any(spec: LucidrainsSpec, attends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which tokens' local heads may see one of those that may be attended to, bool [B, rows] both."""
    windows = attends.reshape(len(attends), -1, spec.padding_multiple)
    any_there = np.pad(windows.any(2), ((0, 0), (1, 1)))
    seen: NDArray[np.bool_] = np.logical_or.accumulate(windows, 2) | any_there[:, :-2, None]
    if not spec.is_causal:
        seen = seen | windows.any(2, keepdims=True) | any_there[:, 2:, None]
    return seen.reshape(attends.shape)
