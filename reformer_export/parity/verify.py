"""Sweep an artifact over lengths, batches and masks against eager, and judge it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact import Manifest, read_manifest
from reformer_export.errors import InputError
from reformer_export.native import NativeMode
from reformer_export.ops import draw_rotations
from reformer_export.parity.compare import LayerAgreement, compare_buckets, output_error, tolerance
from reformer_export.parity.eager import EagerReformer
from reformer_export.parity.instrumented import InstrumentedModel, open_instrumented
from reformer_export.runtimes import Runtime, load
from reformer_export.spec import LocalAttentionSpec, LSHAttentionSpec, ModelSpec

DECODER_BIAS: Final = "lm_head.decoder.bias"

MAX_TOKENS: Final = 2**22
"""Tokens of one case: more would end in an allocation that the system answers by ending the process."""

EAGER_MEMORY_BYTES: Final = 3 * 2**30
"""Temporaries that the default sweep lets eager allocate; it bounds the longest length that is tried."""


@dataclass(frozen=True)
class Case:
    """One input of the sweep: `batch` sequences of `length` tokens, right-padded at random when `masked`."""

    length: int
    batch: int
    masked: bool

    def __str__(self) -> str:
        return f"batch {self.batch}, length {self.length}{', masked' if self.masked else ''}"


@dataclass(frozen=True)
class CaseResult:
    """The three numbers of a case, and their verdict.

    `pinned_error`: largest output difference with eager's buckets; `tolerance`: its limit; `layers`: bucket
    agreement; `free_error`: largest output difference when the graph uses its own buckets.
    """

    case: Case
    pinned_error: float
    tolerance: float
    layers: tuple[LayerAgreement, ...]
    free_error: float

    @property
    def flips(self) -> int:
        return sum(layer.flips for layer in self.layers)

    @property
    def hashed(self) -> int:
        return sum(layer.hashed for layer in self.layers)

    @property
    def unexplained(self) -> int:
        return sum(layer.unexplained for layer in self.layers)

    @property
    def passed(self) -> bool:
        """The arithmetic agrees, every flip is explained, and without any the free run agrees too."""
        free_agrees = self.flips > 0 or self.free_error <= self.tolerance
        return self.pinned_error <= self.tolerance and self.unexplained == 0 and free_agrees


@dataclass(frozen=True)
class VerifyResult:
    """A whole sweep on one runtime."""

    runtime: str
    dtype: str
    cases: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases)

    @property
    def worst(self) -> CaseResult:
        """The case nearest to, or farthest beyond, failing."""
        return max(self.cases, key=lambda c: (c.unexplained > 0, c.pinned_error / c.tolerance))

    def summary(self) -> dict[str, Any]:
        """The sweep in a few JSON values."""
        return {
            "runtime": self.runtime,
            "dtype": self.dtype,
            "passed": self.passed,
            "num_cases": len(self.cases),
            "worst": str(self.worst.case),
            "max_pinned_error": max(case.pinned_error for case in self.cases),
            "max_free_error": max(case.free_error for case in self.cases),
            "hashed": sum(case.hashed for case in self.cases),
            "flips": sum(case.flips for case in self.cases),
            "unexplained_flips": sum(case.unexplained for case in self.cases),
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary and every case, in JSON values."""
        cases = [
            {**dataclasses.asdict(result), "flips": result.flips, "passed": result.passed}
            for result in self.cases
        ]
        return {**self.summary(), "cases": cases}

    def verdict(self) -> str:
        """One line: passed or failed, the worst case, and how often hashes flipped."""
        worst = self.worst
        summary = self.summary()
        rate = summary["flips"] / max(summary["hashed"], 1)
        return (
            f"{'Passed' if self.passed else 'FAILED'}: {len(self.cases)} cases; worst: {worst.case} "
            f"(pinned error {worst.pinned_error:.1e}, tolerance {worst.tolerance:.1e}, "
            f"{worst.unexplained} unexplained flips); {summary['flips']} of {summary['hashed']} hashes "
            f"flipped ({rate:.3%})"
        )


def default_cases(spec: ModelSpec, short: bool = False) -> list[Case]:
    """The sweep: around each chunk length and the common multiple, odd lengths, and the longest that eager
    can run in `EAGER_MEMORY_BYTES`; batches 1 to 3, with and without masks. `short` keeps a handful."""
    longest = longest_comparable(spec)
    chunks = sorted({layer.chunk_length for layer in spec.layers})
    lengths = {1, longest}
    for chunk in (*chunks, spec.padding_multiple):
        lengths |= {chunk - 1, chunk, chunk + 1, 2 * chunk + chunk // 2 + 1, 3 * chunk}
    ordered = sorted(length for length in lengths if 1 <= length <= longest)
    if short:
        middle = min(2 * spec.padding_multiple + spec.padding_multiple // 2 + 1, spec.max_length)
        few = sorted({1, spec.padding_threshold, middle} & set(range(1, spec.max_length + 1)))
        return [Case(n, 1 + i % 2, masked=i % 2 == 1 and n > 1) for i, n in enumerate(few)]
    cases = []
    for i, length in enumerate(ordered):
        cases.append(Case(length, 1, masked=False))
        if length > 1 and length < longest:
            cases.append(Case(length, 2 + i % 2, masked=True))
    return cases


def choose_cases(
    spec: ModelSpec, lengths: Sequence[int] | None = None, batch_sizes: Sequence[int] | None = None
) -> list[Case]:
    """The default sweep, or every combination of the given lengths and batch sizes, bare and masked."""
    if lengths is None and batch_sizes is None:
        return default_cases(spec)
    lengths = lengths or sorted({case.length for case in default_cases(spec)})
    combinations = itertools.product(lengths, batch_sizes or (1, 2, 3))
    return [
        Case(length, batch, masked)
        for length, batch in combinations
        for masked in ((False, True) if length > 1 else (False,))
    ]


def longest_comparable(spec: ModelSpec) -> int:
    """Tokens: the usable maximum, or the multiple of the chunk lengths that keeps eager in memory."""
    per_token = max(_eager_bytes_per_token(spec, layer) for layer in spec.layers)
    per_token += 4 * (2 * spec.feed_forward_size + 12 * spec.hidden_size + 3 * spec.vocab_size)
    bound = EAGER_MEMORY_BYTES // per_token // spec.padding_multiple * spec.padding_multiple
    return min(spec.max_length, max(bound, 2 * spec.padding_multiple))


def _eager_bytes_per_token(spec: ModelSpec, layer: LSHAttentionSpec | LocalAttentionSpec) -> int:
    rounds = layer.num_hashes if isinstance(layer, LSHAttentionSpec) else 1
    window = (1 + layer.num_chunks_before + layer.num_chunks_after) * layer.chunk_length
    # Logits, mask and probabilities; keys and values listed once per window chunk; indices. float32.
    return 4 * spec.num_heads * rounds * (4 * window + 8 * spec.head_size * (window // layer.chunk_length))


def make_inputs(spec: ModelSpec, case: Case, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random ids and mask int64 [B, L]; each masked row keeps at least its first token."""
    rng = np.random.default_rng((seed, case.length, case.batch))
    ids = rng.integers(0, spec.vocab_size, (case.batch, case.length), dtype=np.int64)
    mask = np.ones_like(ids)
    if case.masked:
        kept = rng.integers(1, case.length + 1, case.batch)
        kept[-1] = max(1, min(int(kept[-1]), case.length - 1))
        mask = (np.arange(case.length) < kept[:, None]).astype(np.int64)
    return ids, mask


def verify_artifact(
    folder: Path,
    checkpoint_folder: Path,
    cases: Iterable[Case] | None = None,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    native: NativeMode = "auto",
    seed: int = 0,
    on_result: Callable[[CaseResult], None] | None = None,
) -> VerifyResult:
    """Compare the artifact in `folder` with eager from `checkpoint_folder`, case by case.

    Raises:
        ArtifactError: the artifact is broken.
        InputError: a case does not fit the model.
    """
    manifest = read_manifest(folder)
    runtime = load(folder, provider=provider, threads=threads, native=native)
    chosen = list(default_cases(manifest.spec) if cases is None else cases)
    _check_cases(manifest.spec, chosen)
    renamed = manifest.source.get("renamed_weights", {})
    eager = EagerReformer(checkpoint_folder, manifest.spec, DECODER_BIAS in renamed)
    results = []
    with open_instrumented(folder, manifest, runtime.providers[0], threads, runtime.native) as instrumented:
        for case in chosen:
            results.append(_run_case(case, manifest, eager, instrumented, runtime, seed))
            if on_result is not None:
                on_result(results[-1])
    return VerifyResult(_describe_runtime(runtime), manifest.dtype, tuple(results))


def _describe_runtime(runtime: Runtime) -> str:
    provider = runtime.providers[0].removesuffix("ExecutionProvider")
    return f"onnxruntime {provider}" + (f", native {runtime.native}" if runtime.native else "")


def _run_case(
    case: Case,
    manifest: Manifest,
    eager: EagerReformer,
    instrumented: InstrumentedModel,
    runtime: Runtime,
    seed: int,
) -> CaseResult:
    spec, dtype = manifest.spec, manifest.dtype
    ids, mask = make_inputs(spec, case, seed)
    truth = eager.run(ids, mask)
    pinned = instrumented.run(ids, mask, truth.buckets)
    pinned_error, greatest = output_error(pinned.outputs, truth.outputs, mask)
    layers = tuple(
        compare_buckets(
            layer,
            spec,
            dtype,
            pinned.buckets[layer],
            truth.buckets[layer],
            pinned.query_key[layer],
            _recorded_rotations(spec, layer),
            mask,
        )
        for layer in spec.lsh_layers
    )
    free_error, _ = output_error(runtime.run(ids, mask), truth.outputs, mask)
    return CaseResult(case, pinned_error, tolerance(dtype, greatest), layers, free_error)


def _recorded_rotations(spec: ModelSpec, layer: int) -> NDArray[np.float32]:
    """Rotations [H, D, R, S] drawn again from the manifest's seed: the file's own are under test."""
    attention = spec.layers[layer]
    assert isinstance(attention, LSHAttentionSpec)
    shape = (spec.num_heads, spec.head_size, attention.num_hashes, sum(attention.num_buckets) // 2)
    rotations: NDArray[np.float32] = draw_rotations(attention.hash_seed, shape).numpy()
    return rotations


def _check_cases(spec: ModelSpec, cases: list[Case]) -> None:
    if not cases:
        raise InputError("cases: got none, expected at least one length and batch size; give --lengths")
    for case in cases:
        fits = 1 <= case.length <= spec.max_length and case.batch >= 1
        if not fits or case.batch * case.length > MAX_TOKENS:
            raise InputError(
                f"case: got {case}, expected a length from 1 to {spec.max_length}, a batch from 1, and "
                f"{MAX_TOKENS} tokens at most; mend --lengths or --batch-sizes"
            )
