"""config.json of a Hugging Face Reformer -> ModelSpec."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.checkpoints import hashing
from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.config_fields import HONOURED, IRRELEVANT, KNOWN, REFUSED
from reformer_export.checkpoints.config_values import find_wrong_value
from reformer_export.checkpoints.source import CONFIG_NAME, MAX_CONFIG_BYTES, read_json
from reformer_export.errors import CheckpointError, InputError
from reformer_export.spec import (
    AttentionSpec,
    AxialPositionsSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    ModelSpec,
    PositionsSpec,
    Task,
)

TASK_OF_ARCHITECTURE: Final[dict[str, Task]] = {
    "ReformerModel": "feature-extraction",
    "ReformerModelWithLMHead": "text-generation",
    "ReformerForMaskedLM": "fill-mask",
    "ReformerForSequenceClassification": "text-classification",
    "ReformerForQuestionAnswering": "question-answering",
}

SAME_ACTIVATION: Final = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
}
"""transformers' other names of a function (activations.py) -> the name in ModelSpec."""


@dataclass(frozen=True)
class Config:
    """A config.json that transformers accepts: `values` is its ReformerConfig, `ignored` the keys that
    transformers never reads."""

    path: Path
    values: Any
    ignored: tuple[str, ...]

    @property
    def architecture(self) -> str | None:
        """The name of the class that wrote the checkpoint, if config.json has it."""
        names = self.values.architectures
        if not names:
            return None
        if not isinstance(names, list) or len(names) != 1 or str(names[0]) not in TASK_OF_ARCHITECTURE:
            raise _error(self.path, "architectures", names, f"one of {', '.join(TASK_OF_ARCHITECTURE)}")
        return str(names[0])


def read_config(folder: Path) -> Config:
    """Read `folder`/config.json; CheckpointError when it is missing, broken or of another kind of model."""
    path = folder / CONFIG_NAME
    raw = read_json(path, MAX_CONFIG_BYTES)
    if raw.get("model_type") != "reformer":
        raise _error(path, "model_type", raw.get("model_type"), "'reformer'", "give a Reformer's checkpoint")
    for name, (allowed, why) in REFUSED.items():
        if name in raw and raw[name] not in allowed:
            raise _error(path, name, raw[name], f"{allowed[0]!r}, as {why}")
    wrong = find_wrong_value(raw)
    if wrong is not None:
        raise _error(path, wrong[0], raw[wrong[0]], wrong[1])
    config = Config(path, _reformer_config(path, raw), tuple(sorted(raw.keys() - KNOWN)))
    _check_layers(config, raw)
    _check_pad_token(config)
    return config


def _reformer_config(path: Path, raw: dict[str, Any]) -> Any:
    from transformers import ReformerConfig

    known = {name: raw[name] for name in raw if name in HONOURED or name in IRRELEVANT}
    try:
        return ReformerConfig(**known)
    except Exception as error:  # its validators raise errors of several libraries
        raise CheckpointError(
            path,
            f"values that transformers refuses ({' '.join(str(error).split())[:300]})",
            "those of a ReformerConfig",
            "mend them",
        ) from error


def _check_layers(config: Config, raw: dict[str, Any]) -> None:
    kinds = config.values.attn_layers
    for kind in kinds:
        if kind not in ("local", "lsh"):
            raise _error(config.path, "attn_layers", kind, "'local' or 'lsh' for each layer")
    # transformers lets this key shorten the model, which no Reformer that it saved makes use of.
    if raw.get("num_hidden_layers", len(kinds)) != len(kinds):
        raise _error(
            config.path,
            "num_hidden_layers",
            raw["num_hidden_layers"],
            f"{len(kinds)}, the length of attn_layers",
        )
    for kind in set(kinds):
        name = f"{kind}_attn_chunk_length"
        length = getattr(config.values, name)
        if length is None or length < 1:
            raise _error(config.path, name, length, "an integer of at least 1 token")


def _check_pad_token(config: Config) -> None:
    pad, vocab_size = config.values.pad_token_id, config.values.vocab_size
    if pad is None or not 0 <= pad < vocab_size:
        raise _error(
            config.path,
            "pad_token_id",
            pad,
            f"a token id from 0 to {vocab_size - 1}",
            "transformers pads the input with it to a multiple of the chunk length, set it to any token",
        )


def choose_task(config: Config, heads: tuple[str, ...], asked: str) -> Task:
    """The task of the checkpoint, or feature-extraction when that is asked for.

    `heads` are those among the weights' names; they decide when config.json names no architecture.
    """
    architecture = config.architecture
    if asked == "feature-extraction":
        return "feature-extraction"
    stored = TASK_OF_ARCHITECTURE[architecture] if architecture else _task_from_heads(config, heads)
    if asked not in ("auto", stored):
        raise InputError(
            "task",
            f"{asked} for a checkpoint of {architecture or 'no named architecture'}",
            " or ".join(dict.fromkeys((stored, "feature-extraction"))),
            "choose another `task` or checkpoint",
        )
    return stored


def _task_from_heads(config: Config, heads: tuple[str, ...]) -> Task:
    if len(heads) > 1:
        raise _error(config.path, "architectures", None, f"a name, as the weights have {' and '.join(heads)}")
    if not heads:
        return "feature-extraction"
    if heads[0] == "lm_head":
        return "text-generation" if config.values.is_decoder else "fill-mask"
    return "text-classification" if heads[0] == "classifier" else "question-answering"


def spec_from_config(config: Config, task: Task, options: LoadOptions) -> tuple[ModelSpec, dict[str, Any]]:
    """The model that a config describes, and how `num_hashes`, `num_buckets` and `hash_seed` came about."""
    values = config.values
    _check_task(config, task)
    _check_overrides(config, options)
    lsh_layers = tuple(i for i, kind in enumerate(values.attn_layers) if kind == "lsh")
    num_hashes = hashing.choose_num_hashes(values.num_hashes, options)
    seeds = hashing.choose_hash_seeds(values.hash_seed, lsh_layers, options)
    buckets = hashing.choose_num_buckets(values.num_buckets, options)
    layers: list[AttentionSpec | None] = [None] * len(values.attn_layers)
    for layer, seed in zip(lsh_layers, seeds.used, strict=True):
        layers[layer] = _lsh_layer(values, num_hashes.used, buckets.used, seed)
    spec = _model_spec(config, task, options, tuple(layer or _local_layer(values) for layer in layers))
    if options.max_length is not None:
        spec = limit_length(spec, options.max_length)
    if lsh_layers and buckets.used is None:
        length = options.max_length or spec.max_length
        factors = hashing.resolve_num_buckets(
            spec.padded_length(length), values.lsh_attn_chunk_length, values.max_position_embeddings
        )
        buckets = hashing.Choice(None, factors, f"resolved from max length {length}")
        spec = _with_num_buckets(spec, factors)
    if not lsh_layers:
        return spec, {}
    choices = {"num_hashes": num_hashes, "num_buckets": buckets, "hash_seed": seeds}
    return spec, {name: choice.to_dict() for name, choice in choices.items()}


def _model_spec(
    config: Config, task: Task, options: LoadOptions, layers: tuple[AttentionSpec, ...]
) -> ModelSpec:
    values = config.values
    return ModelSpec(
        task=task,
        vocab_size=values.vocab_size,
        hidden_size=values.hidden_size,
        num_heads=values.num_attention_heads,
        head_size=values.attention_head_size,
        feed_forward_size=values.feed_forward_size,
        hidden_act=SAME_ACTIVATION.get(values.hidden_act, values.hidden_act),
        layer_norm_eps=values.layer_norm_eps,
        is_causal=values.is_decoder,
        positions=_positions(values),
        max_position_embeddings=values.max_position_embeddings,
        layers=layers,
        num_labels=values.num_labels if task in ("text-classification", "question-answering") else 2,
        feed_forward_slices=options.feed_forward_slices,
        logits=options.logits,
    )


def _positions(values: Any) -> PositionsSpec:
    if values.axial_pos_embds:
        return AxialPositionsSpec(tuple(values.axial_pos_shape), tuple(values.axial_pos_embds_dim))
    return LearnedPositionsSpec(values.max_position_embeddings)


def _lsh_layer(
    values: Any, num_hashes: int, num_buckets: tuple[int, ...] | None, hash_seed: int
) -> LSHAttentionSpec:
    return LSHAttentionSpec(
        chunk_length=values.lsh_attn_chunk_length,
        num_chunks_before=values.lsh_num_chunks_before,
        num_chunks_after=values.lsh_num_chunks_after,
        num_hashes=num_hashes,
        num_buckets=(hashing.SMALLEST_NUM_BUCKETS,) if num_buckets is None else num_buckets,
        hash_seed=hash_seed,
    )


def _local_layer(values: Any) -> LocalAttentionSpec:
    return LocalAttentionSpec(
        values.local_attn_chunk_length, values.local_num_chunks_before, values.local_num_chunks_after
    )


def _with_num_buckets(spec: ModelSpec, factors: tuple[int, ...]) -> ModelSpec:
    layers = tuple(
        dataclasses.replace(layer, num_buckets=factors) if isinstance(layer, LSHAttentionSpec) else layer
        for layer in spec.layers
    )
    return dataclasses.replace(spec, layers=layers)


def limit_length(spec: ModelSpec, max_length: int) -> ModelSpec:
    """`spec` for at most `max_length` tokens, rounded up to the padded length of so many tokens.

    Only `max_position_embeddings` changes: the tables of positions keep their size, as the weights do.
    """
    if max_length > spec.max_length:
        raise InputError(
            "max length",
            f"{max_length} tokens",
            f"at most {spec.max_length}: the model has {spec.position_limit} positions and pads to a "
            f"multiple of {spec.padding_multiple}",
            "give a smaller `max_length`",
        )
    return dataclasses.replace(spec, max_position_embeddings=spec.padded_length(max_length))


def _check_task(config: Config, task: Task) -> None:
    values = config.values
    needs_decoder = {"text-generation": True, "fill-mask": False}.get(task)
    if needs_decoder is not None and values.is_decoder != needs_decoder:
        raise _error(
            config.path,
            "is_decoder",
            values.is_decoder,
            f"{needs_decoder} for {task}, as transformers asserts",
        )
    if task == "text-generation":
        for kind in set(values.attn_layers):
            name = f"{kind}_num_chunks_after"
            if getattr(values, name) != 0:
                raise _error(
                    config.path, name, getattr(values, name), f"0 for {task}, as transformers asserts"
                )
    if task == "question-answering" and values.num_labels != 2:
        raise _error(config.path, "id2label", f"{values.num_labels} labels", f"2 for {task} (start and end)")


def _check_overrides(config: Config, options: LoadOptions) -> None:
    if "lsh" in config.values.attn_layers:
        return
    for name in ("num_hashes", "num_buckets", "hash_seed"):
        if getattr(options, name) is not None:
            raise InputError(
                name,
                getattr(options, name),
                f"none, as {config.path} has no LSH layer",
                f"leave `{name}`{' or `max_hashes`' if name == 'num_hashes' else ''} out",
            )


def _error(path: Path, field: str, got: object, expected: str, fix: str = "mend it") -> CheckpointError:
    text = repr(got)
    return CheckpointError(f"{path}: {field}", text if len(text) <= 80 else text[:77] + "...", expected, fix)
