"""The options of the workflows as keywords, for type checkers and editors: a misspelt one is an error there.

Each has the fields of its request, which documents and checks them; `tests/test_typing.py` compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from reformer_export.libraries.operators import NativeMode
from reformer_export.low_precision import WeightsType
from reformer_export.measure.contenders import Name
from reformer_export.runtimes import RuntimeOptions
from reformer_export.runtimes.options import Provider, RuntimeName
from reformer_export.spec import DType, LogitsPositions, Task, TokenizerChoice


class ExportFields(TypedDict, total=False):
    """The fields of `ExportRequest`."""

    task: Task | Literal["auto"]
    dtype: DType
    num_hashes: int | None
    max_hashes: int | None
    num_buckets: Sequence[int] | None
    hash_seed: int | None
    max_length: int | None
    logits: LogitsPositions
    tokenizer: TokenizerChoice
    feed_forward_slices: int
    decode: bool
    weights: WeightsType | None
    keep: Sequence[str] | None
    data: str | os.PathLike[str] | None
    max_loss: float | None
    opset: int
    revision: str | None
    config: str | os.PathLike[str] | None
    allow_pickle: bool
    verify: bool
    overwrite: bool


class ModuleFields(TypedDict, total=False):
    """The fields of `ModuleRequest`."""

    hash_seed: int | None
    max_length: int | None
    opset: int
    verify: bool
    overwrite: bool


class VerifyFields(TypedDict, total=False):
    """The fields of `VerifyRequest`."""

    checkpoint: str | None
    runtimes: Sequence[RuntimeName]
    engine: str | None
    cuda_graphs: bool
    allow_engine_code: bool
    provider: Provider
    native: NativeMode
    threads: int | None
    tf32: bool
    lengths: Sequence[int] | None
    batch_sizes: Sequence[int] | None
    num_hashes: Sequence[int]
    data: str | os.PathLike[str] | None
    data_length: int | None
    beside: Sequence[str | os.PathLike[str]]
    bisect: str | os.PathLike[str] | None
    details: bool
    seed: int
    device_id: int | None
    inputs: Any
    module: object
    atol: float | None
    rtol: float | None


class BenchFields(TypedDict, total=False):
    """The fields of `BenchRequest`."""

    runtime: RuntimeOptions
    checkpoint: str | None
    decode: bool
    against: Sequence[Name] | None
    lengths: Sequence[int] | None
    batch_sizes: Sequence[int]
    repeat: int | None
    warm_up: int
    memory: bool
    node_times: bool
