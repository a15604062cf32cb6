"""The tensors a Reformer has, by the names and shapes of `transformers`, and their match with a file's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.checkpoints.weights import STORED_DTYPES, TensorHeader
from reformer_export.errors import CheckpointError
from reformer_export.spec import AxialPositionsSpec, LSHAttentionSpec, ModelSpec, Task

Shape = tuple[int, ...]

BASE_PREFIX: Final = "reformer."
HEAD_OF_TASK: Final[dict[Task, str]] = {
    "text-generation": "lm_head",
    "fill-mask": "lm_head",
    "text-classification": "classifier",
    "question-answering": "qa_outputs",
}
_HEADS: Final = tuple(sorted(set(HEAD_OF_TASK.values())))

DECODER_BIAS: Final = "lm_head.decoder.bias"
LM_HEAD_BIAS: Final = "lm_head.bias"
"""Up to transformers 4 the same parameter as lm_head.decoder.bias, so a file may have either or both;
from 5 on it is one of its own, which no forward pass reads."""

_BUFFER: Final = re.compile(
    r"encoder\.layers\.\d+\.attention\.self_attention\.(self_)?mask_value(_float(16|32))?"
)
"""Constants that old versions saved as if they were weights."""


@dataclass(frozen=True)
class Selection:
    """Which stored tensor is which parameter.

    `stored` maps a parameter's name to the stored name; `dropped` are tensors of a head that the task does
    not have; `ignored` are tensors that no forward pass reads.
    """

    stored: dict[str, str]
    dropped: tuple[str, ...]
    ignored: tuple[str, ...]


def expected_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Every parameter's name (without `reformer.`) and shape in elements, as `transformers` lays them out."""
    hidden = spec.hidden_size
    shapes: dict[str, Shape] = {"embeddings.word_embeddings.weight": (spec.vocab_size, hidden)}
    shapes |= _position_shapes(spec)
    for index in range(len(spec.layers)):
        shapes |= _layer_shapes(spec, index)
    shapes |= _norm_shapes("encoder.layer_norm", 2 * hidden)
    return shapes | _head_shapes(spec)


def _position_shapes(spec: ModelSpec) -> dict[str, Shape]:
    positions = spec.positions
    prefix = "embeddings.position_embeddings."
    if not isinstance(positions, AxialPositionsSpec):
        return {prefix + "embedding.weight": (positions.num_positions, spec.hidden_size)}
    axes = len(positions.shape)
    return {
        f"{prefix}weights.{axis}": (*(size if axis == i else 1 for i in range(axes)), positions.dims[axis])
        for axis, size in enumerate(positions.shape)
    }


def _layer_shapes(spec: ModelSpec, index: int) -> dict[str, Shape]:
    hidden, all_heads = spec.hidden_size, spec.num_heads * spec.head_size
    prefix = f"encoder.layers.{index}."
    is_lsh = isinstance(spec.layers[index], LSHAttentionSpec)
    shapes: dict[str, Shape] = {
        f"{prefix}attention.self_attention.{name}.weight": (all_heads, hidden)
        for name in (("query_key", "value") if is_lsh else ("query", "key", "value"))
    }
    shapes[prefix + "attention.output.dense.weight"] = (hidden, all_heads)
    shapes |= _norm_shapes(prefix + "attention.layer_norm", hidden)
    shapes |= _norm_shapes(prefix + "feed_forward.layer_norm", hidden)
    shapes |= _linear_shapes(prefix + "feed_forward.dense.dense", spec.feed_forward_size, hidden)
    return shapes | _linear_shapes(prefix + "feed_forward.output.dense", hidden, spec.feed_forward_size)


def _head_shapes(spec: ModelSpec) -> dict[str, Shape]:
    hidden = spec.hidden_size
    head = HEAD_OF_TASK.get(spec.task)
    if head == "lm_head":
        return _linear_shapes("lm_head.decoder", spec.vocab_size, 2 * hidden)
    if head == "classifier":
        return _linear_shapes("classifier.dense", hidden, 2 * hidden) | _linear_shapes(
            "classifier.out_proj", spec.num_labels, hidden
        )
    if head == "qa_outputs":
        return _linear_shapes("qa_outputs", spec.num_labels, 2 * hidden)
    return {}


def _linear_shapes(prefix: str, out_features: int, in_features: int) -> dict[str, Shape]:
    return {prefix + ".weight": (out_features, in_features), prefix + ".bias": (out_features,)}


def _norm_shapes(prefix: str, size: int) -> dict[str, Shape]:
    return {prefix + ".weight": (size,), prefix + ".bias": (size,)}


def normalise_names(folder: Path, stored: Iterable[str]) -> dict[str, str]:
    """Each stored name by its name without `reformer.`; CheckpointError when two become one."""
    names: dict[str, str] = {}
    for name in stored:
        short = name.removeprefix(BASE_PREFIX)
        if short in names:
            raise CheckpointError(
                f"checkpoint {folder}",
                f"both {names[short]!r} and {name!r}",
                "one of them",
                "save the checkpoint again",
            )
        names[short] = name
    return names


def heads_among(names: Iterable[str]) -> tuple[str, ...]:
    """The heads (lm_head, classifier, qa_outputs) that own one of `names`."""
    found = {name.partition(".")[0] for name in names}
    return tuple(head for head in _HEADS if head in found)


def select_tensors(
    folder: Path, spec: ModelSpec, names: Mapping[str, str], headers: Mapping[str, TensorHeader]
) -> Selection:
    """Match a file's tensors with the parameters of `spec`.

    Args:
        folder: the checkpoint, for the messages.
        spec: the model that config.json describes.
        names: stored names by their normalised names.
        headers: shapes and types by stored names.

    Raises:
        CheckpointError: a tensor is missing, superfluous, of another shape or of a type that is no weight's.
    """
    shapes = expected_shapes(spec)
    stored = {name: names[name] for name in shapes if name in names}
    if DECODER_BIAS in shapes and DECODER_BIAS not in names and LM_HEAD_BIAS in names:
        stored[DECODER_BIAS] = names[LM_HEAD_BIAS]
    rest = sorted(set(names) - set(shapes) - {name.removeprefix(BASE_PREFIX) for name in stored.values()})
    heads = () if spec.task in HEAD_OF_TASK else heads_among(rest)
    dropped = tuple(name for name in rest if name.partition(".")[0] in heads)
    ignored = tuple(n for n in rest if n not in dropped and (_BUFFER.fullmatch(n) or n == LM_HEAD_BIAS))
    unexpected = [n for n in rest if n not in dropped and n not in ignored]
    _check_names(folder, spec, [name for name in shapes if name not in stored], unexpected)
    _check_headers(shapes, {name: headers[stored[name]] for name in shapes})
    return Selection(stored, dropped, ignored)


def _check_names(folder: Path, spec: ModelSpec, missing: list[str], unexpected: list[str]) -> None:
    for kind, wrong in (("no tensor", missing), ("the unexpected tensor", unexpected)):
        if wrong:
            raise CheckpointError(
                f"checkpoint {folder}",
                f"{kind} {wrong[0]!r}{_more(wrong)}",
                f"the tensors of a Reformer of {len(spec.layers)} layers for {spec.task} as config.json says",
                "check that the weights and config.json belong together",
            )


def _check_headers(shapes: dict[str, Shape], headers: dict[str, TensorHeader]) -> None:
    wrong = [name for name, shape in shapes.items() if headers[name].shape != shape]
    if wrong:
        header = headers[wrong[0]]
        raise CheckpointError(
            header.file,
            f"the shape {list(header.shape)} of {wrong[0]}{_more(wrong)}",
            f"{list(shapes[wrong[0]])} as config.json says",
            "check that the weights and config.json belong together",
        )
    wrong = [name for name in shapes if headers[name].dtype not in STORED_DTYPES.values()]
    if wrong:
        header = headers[wrong[0]]
        raise CheckpointError(
            header.file,
            f"the type {header.dtype} of {wrong[0]}{_more(wrong)}",
            f"one of {', '.join(STORED_DTYPES.values())}",
            "save the checkpoint in float32",
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
