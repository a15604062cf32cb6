"""Which inputs a sweep tries: lengths around every chunk border, batches, masks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import InputError
from reformer_export.product_keys_spec import NUM_CHOSEN, NUM_QUERIES
from reformer_export.spec import LocalAttentionSpec, LSHAttentionSpec, ModelSpec

MAX_TOKENS: Final = 2**22
"""Tokens of one case: more would end in an allocation that the system answers by ending the process."""

EAGER_MEMORY_BYTES: Final = 3 * 2**30
"""Temporaries that the default sweep lets eager allocate; it bounds the longest length that is tried."""

BYTES_PER_PAIR: Final = 24
"""What eager's product-key memories have for each pair of a query's best keys: its score, float32, and its
memory, int64, which is a product and then a sum."""


@dataclass(frozen=True)
class GivenInputs:
    """A user's own ids int64 [B, L], or vectors float32 [B, L, hidden_size], and mask int64 [B, L]; `where`
    they are from, for people, tells them apart."""

    where: str
    ids: NDArray[Any] = dataclasses.field(compare=False, repr=False)
    mask: NDArray[np.int64] = dataclasses.field(compare=False, repr=False)


@dataclass(frozen=True)
class Case:
    """One input of the sweep: `batch` sequences of `length` tokens, right-padded at random when `masked`.

    `num_hashes`: rounds of an artifact whose runs choose them; None for all. `inputs`: a user's own, of that
    shape; None for random ones.
    """

    length: int
    batch: int
    masked: bool
    num_hashes: int | None = None
    inputs: GivenInputs | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `num_hashes` and `inputs` only where the case has its own."""
        values: dict[str, Any] = {"length": self.length, "batch": self.batch, "masked": self.masked}
        if self.num_hashes is not None:
            values["num_hashes"] = self.num_hashes
        return values if self.inputs is None else values | {"inputs": self.inputs.where}

    def __str__(self) -> str:
        rounds = ""
        if self.num_hashes is not None:
            rounds = ", 1 hash" if self.num_hashes == 1 else f", {self.num_hashes} hashes"
        where = "" if self.inputs is None else f"{self.inputs.where}: "
        return f"{where}batch {self.batch}, length {self.length}{', masked' if self.masked else ''}{rounds}"


def default_cases(spec: ModelSpec, short: bool = False) -> list[Case]:
    """The sweep: around each chunk length and the common multiple, odd lengths, and the longest that eager
    can run in `EAGER_MEMORY_BYTES`; batches 1 to 3, with and without masks. `short` keeps a handful."""
    longest = longest_comparable(spec)
    chunks = sorted({layer.chunk_length for layer in spec.layers})
    lengths = {1, longest}
    for chunk in (*chunks, spec.padding_multiple):
        lengths |= {chunk - 1, chunk, chunk + 1, 2 * chunk + chunk // 2 + 1, 3 * chunk}
    ordered = sorted(length for length in lengths if length <= longest and spec.takes_length(length))
    if short:
        # Beyond what attends densely, and between two multiples.
        beyond = max(spec.padding_multiple, spec.padding_threshold) + spec.padding_multiple
        middle = min(beyond + spec.padding_multiple // 2 + 1, spec.max_length)
        while middle > 1 and not spec.takes_length(middle):
            middle -= 1
        few = sorted(filter(spec.takes_length, {1, spec.padding_threshold, middle}))
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


def add_num_hashes_cases(manifest: Manifest, cases: Sequence[Case]) -> list[Case]:
    """`cases`, which use all rounds, and where runs choose their rounds one bare and one masked input of a
    middle length that is hashed at each smaller number of them."""
    added: list[Case] = []
    for count in manifest.runtime_num_hashes.counts[:-1] if manifest.runtime_num_hashes else ():
        for masked in (False, True):
            hashed = [c for c in cases if c.masked == masked and manifest.spec.hashes(c.length)]
            if hashed:
                added.append(dataclasses.replace(hashed[len(hashed) // 2], num_hashes=count))
    return [*cases, *added]


def longest_comparable(spec: ModelSpec) -> int:
    """Tokens: the usable maximum, or the multiple of the chunk lengths that keeps eager in memory."""
    per_token = max(_eager_bytes_per_token(spec, layer) for layer in spec.layers)
    per_token += 4 * (2 * spec.feed_forward_size + 12 * spec.hidden_size + 3 * spec.vocab_size)
    if spec.memory_layers:
        per_token += NUM_QUERIES * NUM_CHOSEN**2 * BYTES_PER_PAIR
    bound = EAGER_MEMORY_BYTES // per_token // spec.padding_multiple * spec.padding_multiple
    return min(spec.max_length, max(bound, 2 * spec.padding_multiple))


def _eager_bytes_per_token(spec: ModelSpec, layer: LSHAttentionSpec | LocalAttentionSpec) -> int:
    rounds = layer.num_hashes if isinstance(layer, LSHAttentionSpec) else 1
    window = (1 + layer.num_chunks_before + layer.num_chunks_after) * layer.chunk_length
    # Logits, mask and probabilities; keys and values listed once per window chunk; indices. float32.
    return 4 * spec.num_heads * rounds * (4 * window + 8 * spec.head_size * (window // layer.chunk_length))


def make_inputs(spec: ModelSpec, case: Case, seed: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Random ids int64 [B, L], or vectors of normal numbers float32 [B, L, hidden_size], and a mask int64
    [B, L]; each masked row keeps at least its first token."""
    rng = np.random.default_rng((seed, case.length, case.batch))
    shape = case.batch, case.length
    if spec.takes_vectors:
        inputs: NDArray[Any] = rng.standard_normal((*shape, spec.hidden_size), np.float32)
    else:
        inputs = rng.integers(0, spec.vocab_size, shape, dtype=np.int64)
    mask = np.ones(shape, np.int64)
    if case.masked:
        kept = rng.integers(1, case.length + 1, case.batch)
        kept[-1] = max(1, min(int(kept[-1]), case.length - 1))
        mask = (np.arange(case.length) < kept[:, None]).astype(np.int64)
    return inputs, mask


def check_cases(spec: ModelSpec, cases: Sequence[Case]) -> None:
    """InputError unless there are cases and each fits the model."""
    if not cases:
        raise InputError("cases", "none", "at least one length and batch size", "give `lengths`")
    for case in cases:
        fits = spec.takes_length(case.length) and case.batch >= 1
        if not fits or case.batch * case.length > MAX_TOKENS:
            raise InputError(
                "case",
                case,
                f"a length from 1 to {spec.max_length}, a batch from 1, and {MAX_TOKENS} tokens at most",
                "mend `lengths`, `batch_sizes` or `inputs`",
            )
