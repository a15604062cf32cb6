"""Run decode.onnx call by call, and keep what every token was when it was new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.decoding import (
    LENGTHS_INPUT,
    NEW_LENGTHS_INPUT,
    CacheTensor,
    cache_tensors,
)
from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.parity.attention_points import AttentionPoints, DecodePoints, find_decode_points
from reformer_export.parity.decoding_cases import DecodingCase
from reformer_export.parity.expose import ExposedGraph, ModelGraph

GARBAGE: Final = 7
"""In the caches where there is no token: nothing may read it."""

BUCKETS: Final = "buckets"
OUTPUT: Final = "output"


@dataclass(frozen=True)
class CacheError:
    """A row's cache of `layer` that is not what its tokens were when they were new, from `length` tokens on
    or earlier; `error` is the largest difference."""

    row: int
    layer: int
    name: str
    length: int
    error: float


@dataclass
class Trace:
    """A case's run.

    `layers`: by layer and name, what its step operator read and gave for every token when it was new:
    float32 [B, longest, H*D], and buckets int32 [B, H, R, longest]. The buckets are the graph's own, even
    where others were `given` to the operators: by layer, None where it does not hash; empty where none were.
    `logits` float32 [vocab_size] by (row, length); `new` the new tokens of the row in the call that ended at
    that length; `cache_errors` the first of each row and cache.
    """

    case: DecodingCase
    ids: NDArray[np.int64]
    layers: list[dict[str, NDArray[Any]]]
    given: Sequence[NDArray[np.int32] | None] = ()
    logits: dict[tuple[int, int], NDArray[np.float32]] = field(default_factory=dict)
    new: dict[tuple[int, int], int] = field(default_factory=dict)
    cache_errors: dict[tuple[int, int, str], CacheError] = field(default_factory=dict)

    def lengths(self, row: int) -> list[int]:
        """The row's tokens after each call in which it got some."""
        return [length for at, length in self.logits if at == row]

    def of_row(self, layer: int, name: str, row: int, length: int) -> NDArray[Any]:
        """[1, length, H*D], or of the buckets [1, H, R, length]."""
        value = self.layers[layer][name][row : row + 1]
        return value[..., :length] if name == BUCKETS else value[:, :length]

    def attended(self, layer: int) -> NDArray[np.int32]:
        """The buckets int32 [B, H, R, longest] by which the layer attended."""
        given = self.given[layer] if self.given else None
        return self.layers[layer][BUCKETS] if given is None else given

    def buckets_of_row(self, row: int) -> list[NDArray[np.int32] | None]:
        """By layer, int32 [1, H, R, longest]; None for one that does not hash."""
        return [values[BUCKETS][row : row + 1] if BUCKETS in values else None for values in self.layers]


class DecodeRunner:
    """decode.onnx with what its step operators read and give exposed; `pinned`: on buckets that are given."""

    def __init__(self, graph: ModelGraph, manifest: Manifest, *, pinned: bool) -> None:
        self.points = find_decode_points(graph.model, manifest.spec)
        self._manifest, self._pinned = manifest, pinned
        given = self.points.buckets if pinned else []
        self._graph: ExposedGraph = graph.expose(given, self.points.shown)

    def run(
        self,
        case: DecodingCase,
        ids: NDArray[np.int64],
        given: Sequence[NDArray[np.int32] | None] = (),
    ) -> Trace:
        """`ids` int64 [B, at least the case's longest]; `given` buckets by layer, int32 [B, H, R, at least
        that], for a pinned graph."""
        spec, caches = self._manifest.spec, self._caches(case)
        past = {each.input: empty_cache(each, case) for each in caches}
        trace = Trace(case, ids, [{} for _ in spec.layers], given if self._pinned else ())
        extra = choose_rounds(self._manifest, case)
        for lengths, new in case.calls():
            inputs: dict[str, NDArray[Any]] = {
                "input_ids": _new_ids(ids, lengths, new),
                LENGTHS_INPUT: lengths,
                NEW_LENGTHS_INPUT: new,
                **past,
                **extra,
            }
            results = self._graph.run(inputs, self._given(given, lengths, new))
            _record(trace, self.points, results, lengths, new)
            present = {each.output: results[each.output] for each in caches}
            for each in caches:
                _check_cache(trace, each, present[each.output], lengths + new)
                past[each.input] = present[each.output]
        return trace

    def _caches(self, case: DecodingCase) -> tuple[CacheTensor, ...]:
        return cache_tensors(self._manifest.spec, self._manifest.dtype, case.num_hashes)

    def _given(
        self, given: Sequence[NDArray[np.int32] | None], lengths: NDArray[np.int32], new: NDArray[np.int32]
    ) -> Mapping[str, NDArray[Any]]:
        if not self._pinned:
            return {}
        values = {}
        for layer, buckets in zip(self.points.layers, given, strict=True):
            if buckets is not None:
                rows = [buckets[b, ..., held : held + own] for b, (held, own) in _pairs(lengths, new)]
                values[layer.read[BUCKETS].name] = _stack(rows, int(new.max()), axis=-1)
        return values


def choose_rounds(manifest: Manifest, case: DecodingCase) -> dict[str, NDArray[np.int64]]:
    """The graph's input of a case's number of hashes, where it has one."""
    choice = manifest.runtime_num_hashes
    if choice is None:
        return {}
    return {NUM_HASHES_INPUT: np.array([case.num_hashes or choice.max_hashes], np.int64)}


def _pairs(lengths: NDArray[np.int32], new: NDArray[np.int32]) -> list[tuple[int, tuple[int, int]]]:
    return list(enumerate(zip(lengths.tolist(), new.tolist(), strict=True)))


def empty_cache(cache: CacheTensor, case: DecodingCase) -> NDArray[Any]:
    """A case's cache before its first call."""
    dtype = np.int32 if cache.dtype == "int32" else np.float32
    return np.full(cache.shape_of(len(case.rows), case.longest), GARBAGE, dtype)


def _new_ids(ids: NDArray[np.int64], lengths: NDArray[np.int32], new: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 [B, Q]: each row's new ones, and behind them any."""
    rows = [ids[b, held : held + own] for b, (held, own) in _pairs(lengths, new)]
    return _stack(rows, int(new.max()), axis=0)


def _stack(rows: Sequence[NDArray[Any]], size: int, axis: int) -> NDArray[Any]:
    """The rows as one, with zeros up to `size` along their `axis`."""
    padded = []
    for row in rows:
        pads = [(0, 0)] * row.ndim
        pads[axis] = (0, size - row.shape[axis])
        padded.append(np.pad(row, pads))
    return np.stack(padded)


def _record(
    trace: Trace,
    points: DecodePoints,
    results: Mapping[str, NDArray[Any]],
    lengths: NDArray[np.int32],
    new: NDArray[np.int32],
) -> None:
    """Put the new tokens of a call into `trace`."""
    for layer in points.layers:
        _record_layer(trace, layer, results, lengths, new)
    for row, (held, own) in _pairs(lengths, new):
        if own:
            trace.logits[row, held + own] = results[points.logits.name][row, 0]
            trace.new[row, held + own] = own


def _record_layer(
    trace: Trace,
    layer: AttentionPoints,
    results: Mapping[str, NDArray[Any]],
    lengths: NDArray[np.int32],
    new: NDArray[np.int32],
) -> None:
    values = trace.layers[layer.layer]
    for name, point in (*layer.read.items(), (OUTPUT, layer.output)):
        fresh = results[point.name]
        axis = 3 if name == BUCKETS else 1
        if name not in values:
            shape = list(fresh.shape)
            shape[axis] = trace.case.longest
            values[name] = np.zeros(shape, fresh.dtype)
        for row, (held, own) in _pairs(lengths, new):
            if axis == 3:
                values[name][row, :, :, held : held + own] = fresh[row, :, :, :own]
            else:
                values[name][row, held : held + own] = fresh[row, :own]


def _check_cache(trace: Trace, cache: CacheTensor, got: NDArray[Any], lengths: NDArray[np.int32]) -> None:
    """Note where a row's cache is not exactly what its tokens were."""
    is_hash = cache.name == BUCKETS
    history = trace.attended(cache.layer) if is_hash else trace.layers[cache.layer][cache.name]
    for row, length in enumerate(lengths.tolist()):
        if is_hash:
            found, expected = got[row, :, :, :length], history[row, :, :, :length]
        else:
            size = got.shape[1]
            held = np.arange(max(0, length - size), length) if not cache.grows else np.arange(length)
            found, expected = got[row, held % size], history[row, held]
        if not np.array_equal(found, expected):
            error = float(np.nan_to_num(np.abs(found.astype(np.float64) - expected), nan=np.inf).max())
            key = (row, cache.layer, cache.name)
            trace.cache_errors.setdefault(key, CacheError(*key, length, error))
