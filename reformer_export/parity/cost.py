"""What low precision costs: an artifact beside the original model, told and never judged by itself.

A comparison of the arithmetic gives eager the artifact's weights and its rounding. Here eager is as the
checkpoint has it, in float32, and the artifact hashes and rounds for itself, as users run it.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.measure.accuracy import TokenText, cut_sequences, sum_next_token_loss
from reformer_export.parity.cases import Case, longest_comparable
from reformer_export.parity.compare import hashed_tokens
from reformer_export.parity.expose import ExposedGraph
from reformer_export.parity.session import ParitySession
from reformer_export.reference.rounded import exact_weights
from reformer_export.runtimes import Runtime
from reformer_export.spec import ModelSpec

MAX_TOKENS: Final = 4096
"""Of a sequence."""

RANDOM_SEQUENCES: Final = 2
"""Where no text is given."""


@dataclass(frozen=True)
class LayerFlips:
    """Of a layer's `hashed` hashes, those that fell into another bucket than the original's."""

    layer: int
    hashed: int
    flips: int


@dataclass(frozen=True)
class ArtifactCost:
    """An artifact's cost.

    `precision`: the types of its weights; `nbytes`: of its graph and weights; `tokens_per_second`: at the
    median pass of a whole sequence, batch 1; `agreement`: the share of predictions, 0 to 1, whose greatest
    logit is the original's, None for a model without logits; `bits_per_character`: on the text, None without
    one.
    """

    name: str
    precision: str
    nbytes: int
    tokens_per_second: float
    layers: tuple[LayerFlips, ...]
    agreement: float | None
    bits_per_character: float | None

    @property
    def flip_rate(self) -> float:
        """The share of all layers' hashes that fell otherwise, 0 to 1."""
        return sum(each.flips for each in self.layers) / max(sum(each.hashed for each in self.layers), 1)


@dataclass(frozen=True)
class CostResult:
    """Artifacts of one checkpoint beside the original, whose `bits_per_character` is on the same text; `text`
    its name, None for random tokens."""

    text: str | None
    sequences: int
    length: int
    bits_per_character: float | None
    artifacts: tuple[ArtifactCost, ...]

    def loss(self, artifact: ArtifactCost) -> float | None:
        """Bits per character more than the original's."""
        if artifact.bits_per_character is None or self.bits_per_character is None:
            return None
        return artifact.bits_per_character - self.bits_per_character

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        more = [{"loss": self.loss(each), "flip_rate": each.flip_rate} for each in self.artifacts]
        return dataclasses.asdict(self) | {
            "artifacts": [
                dataclasses.asdict(each) | own for each, own in zip(self.artifacts, more, strict=True)
            ]
        }

    def to_record(self) -> dict[str, Any]:
        """What a manifest keeps of it: neither the name of the folder nor the speed, which would differ."""
        values = self.to_dict()
        for each in values["artifacts"]:
            del each["name"], each["tokens_per_second"]
        return values


@dataclass
class _Sums:
    """Of one artifact, or of the original: what its sequences add up to."""

    nats: float = 0.0
    agreeing: int = 0
    predictions: int = 0
    seconds: list[float] = dataclasses.field(default_factory=list)
    flips: dict[int, list[int]] = dataclasses.field(default_factory=dict)


def measure_cost(
    sessions: Sequence[ParitySession],
    text: TokenText | None = None,
    name: str | None = None,
    length: int | None = None,
    on_pass: Callable[[int], object] = lambda _count: None,
) -> CostResult:
    """Run the artifacts of `sessions`, which share one eager, on `text`, called `name`, in sequences of
    `length` tokens (None: up to `MAX_TOKENS`, and to what eager can run), or on random tokens.

    `on_pass` is called with 1 after each sequence.
    """
    first, spec = sessions[0], sessions[0].spec
    inputs = choose_sequences(first, text, choose_length(spec, length))
    graphs = [session.graph.expose([], session.hashing) for session in sessions]
    original, sums = _Sums(), [_Sums() for _ in sessions]
    for ids in inputs:
        mask = np.ones(ids.shape[:2], np.int64)
        with exact_weights(first.eager.model):
            truth = first.eager.run(ids, mask)
        _add_loss(original, truth.outputs, ids, text)
        for session, graph, own in zip(sessions, graphs, sums, strict=True):
            if not own.seconds:
                session.runtime.run(ids, mask)  # untimed: the first pass also allocates
            start = time.perf_counter()
            outputs = session.runtime.run(ids, mask)
            if ids.shape == inputs[0].shape:  # the last one is shorter
                own.seconds.append(time.perf_counter() - start)
            _add_loss(own, outputs, ids, text)
            _add_agreement(own, outputs, truth.outputs)
            _add_flips(own, session, graph, ids, truth.buckets)
        on_pass(1)
    count = 0 if text is None else sum(ids.shape[1] - 1 for ids in inputs)
    longest = inputs[0].shape[1]
    bits, *others = (None if text is None else _bits(own.nats, count, text) for own in (original, *sums))
    rows = [
        _summarise(session, own, own_bits, longest)
        for session, own, own_bits in zip(sessions, sums, others, strict=True)
    ]
    return CostResult(name, len(inputs), longest, bits, tuple(rows))


def choose_length(spec: ModelSpec, length: int | None) -> int:
    """Tokens of a sequence, where `length` are asked for: at most those that eager can run."""
    return min(longest_comparable(spec), MAX_TOKENS if length is None else length)


def encode_text(runtime: Runtime, text: str) -> TokenText:
    """`text` in the artifact's tokens."""
    return TokenText(np.asarray(runtime.tokenizer.encode(text), np.int64), len(text))


def choose_sequences(session: ParitySession, text: TokenText | None, length: int) -> list[NDArray[Any]]:
    """int64 [1, L] each, or vectors float32 [1, L, hidden_size]."""
    if text is not None:
        return [ids[None] for ids in cut_sequences(text.ids, length)]
    while length > 1 and not session.spec.takes_length(length):
        length -= 1
    inputs, _ = session.draw(Case(length, RANDOM_SEQUENCES, masked=False))
    return [inputs[i : i + 1] for i in range(RANDOM_SEQUENCES)]


def _add_loss(
    sums: _Sums, outputs: dict[str, NDArray[np.float32]], ids: NDArray[Any], text: TokenText | None
) -> None:
    if text is not None:
        sums.nats += sum_next_token_loss(outputs["logits"][0], ids[0])


def _add_agreement(
    sums: _Sums, got: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]
) -> None:
    for name, reference in expected.items():
        if name != "last_hidden_state":
            agrees = got[name].argmax(-1) == reference.argmax(-1)
            sums.agreeing += int(agrees.sum())
            sums.predictions += agrees.size


def _add_flips(
    sums: _Sums,
    session: ParitySession,
    graph: ExposedGraph,
    ids: NDArray[Any],
    expected: dict[int, NDArray[np.int32]],
) -> None:
    """How the graph's own buckets fell beside the original's."""
    mask = np.ones(ids.shape[:2], np.int64)
    got = graph.run(session.graph_inputs(ids, mask), {})
    for point in session.hashing:
        if point.role != "buckets" or not session.spec.is_hashed(point.layer or 0, ids.shape[1]):
            continue
        assert point.layer is not None
        mine, theirs = got[point.name], expected[point.layer]
        counts = hashed_tokens(session.spec, mask, mine)[:, None, None, :]
        own = sums.flips.setdefault(point.layer, [0, 0])
        own[0] += int(np.broadcast_to(counts, mine.shape).sum())
        own[1] += int(((mine != theirs) & counts).sum())


def _bits(nats: float, tokens: int, text: TokenText) -> float:
    """Bits per character."""
    return nats / tokens * len(text.ids) / text.characters / math.log(2)


def _summarise(session: ParitySession, sums: _Sums, bits: float | None, length: int) -> ArtifactCost:
    folder = session.runtime.folder
    return ArtifactCost(
        folder.name,
        session.manifest.precision,
        count_bytes(session),
        length / statistics.median(sums.seconds),
        tuple(LayerFlips(layer, hashed, flips) for layer, (hashed, flips) in sorted(sums.flips.items())),
        sums.agreeing / sums.predictions if sums.predictions else None,
        bits,
    )


def count_bytes(session: ParitySession) -> int:
    """Of model.onnx and its weights."""
    names = [name for name in session.manifest.files if name.startswith("model.onnx")]
    return sum((session.runtime.folder / name).stat().st_size for name in names)


def is_lossy(manifest: Manifest) -> bool:
    """Whether an artifact is less precise than the original."""
    return manifest.low_precision is not None or manifest.dtype != "float32"
