"""The keyword arguments of a model of reformer-pytorch, a JSON file: honoured, without effect, or refused.

The package saves tensors only, so that what its constructor was called with stands in a file of the user's. A
keyword that is left out has the constructor's default (reformer-pytorch 1.4.4); `class` and `wrapper` are
ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.files import JsonFile
from reformer_export.checkpoints.lucidrains_classes import (
    ClassKeywords,
    Refusals,
    attention_keywords,
    reformer_keywords,
)
from reformer_export.errors import CheckpointError, one_line_repr
from reformer_export.lucidrains_spec import Architecture
from reformer_export.spec import MAX_DIMENSION, MAX_LAYERS, MAX_NUM_HASHES, Activation

MAX_KEYWORDS_BYTES: Final = 2**20

CLASS_KEY: Final = "class"
WRAPPER_KEY: Final = "wrapper"
MODEL_CLASS: Final[Architecture] = "ReformerLM"
"""Where the file does not say."""
WRAPPERS: Final = ("Autopadder", "TrainingWrapper")
"""Both pad the sequence; the second around the first."""

OTHER_CLASSES: Final = {
    "LSHAttention": "it has no weights, and takes one head's vectors",
    "ReformerEncDec": "an encoder whose output a decoder attends to is not supported yet",
}
"""Classes that are refused, and why."""

DEFAULTS: Final[dict[str, Any]] = {
    "num_tokens": None,
    "dim": None,
    "depth": None,
    "max_seq_len": None,
    "heads": 8,
    "dim_head": 64,
    "bucket_size": 64,
    "n_hashes": 4,
    "causal": False,
    "weight_tie": False,
    "ff_mult": 4,
    "ff_activation": None,
    "ff_glu": False,
    "random_rotations_per_head": False,
    "use_scale_norm": False,
    "use_rezero": False,
    "use_full_attn": False,
    "full_attn_thres": 0,
    "num_mem_kv": 0,
    "one_value_head": False,
    "emb_dim": None,
    "return_embeddings": False,
    "weight_tie_embedding": False,
    "fixed_position_emb": False,
    "absolute_position_emb": False,
    "axial_position_emb": False,
    "axial_position_shape": None,
    "n_local_attn_heads": 0,
    "pkm_layers": (),
    "pkm_num_keys": 128,
}
"""Every keyword that is honoured, and ReformerLM's default; the first four have none there."""

_TRAINING: Final = "read in training only"
_MEMORY: Final = "changes memory, not results"

IGNORED: Final[dict[str, str]] = {
    "ff_chunks": "cuts the sequence in the feed-forward: " + _MEMORY,
    "attn_chunks": "cuts batch and heads in attention, where each slice draws random rotations of its own; "
    "here all slices share them: " + _MEMORY,
    "lsh_dropout": _TRAINING,
    "ff_dropout": _TRAINING,
    "post_attn_dropout": _TRAINING,
    "layer_dropout": _TRAINING,
    "reverse_thres": "chooses how gradients are computed: " + _MEMORY,
}
"""Keywords without effect on the result, and why."""

REFUSED: Final[Refusals] = {
    "lsh_attend_across_buckets": ((True,), "attention that stays in a bucket is not supported"),
    "lsh_allow_duplicate_attention": ((True,), "counting each pair of tokens once is not supported"),
    "axial_position_dims": ((None,), "version 1.4.4 adds the axes' vectors up"),
    "twin_attention": ((False,), "version 1.4.4 has none"),
}

_LANGUAGE_MODEL: Final = ClassKeywords(MODEL_CLASS, DEFAULTS, {}, IGNORED, REFUSED, WRAPPERS)
CLASSES: Final[dict[str, ClassKeywords]] = {
    each.name: each
    for each in (_LANGUAGE_MODEL, reformer_keywords(_LANGUAGE_MODEL), attention_keywords(_LANGUAGE_MODEL))
}

ACTIVATIONS: Final[dict[str, Activation]] = {
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
"""torch.nn's class names in small letters -> the names in ModelSpec; null stands for GELU."""

FIX: Final = "give the keyword arguments that the model was made with"


def _is_integer(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and least <= value <= most, f"an integer from {least} to {most}"


def _or_null(rule: tuple[Callable[[Any], bool], str]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value is None or rule[0](value), f"{rule[1]}, or null"


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_SIZE[0], value))


def _is_layers(value: Any) -> bool:
    return all(map(_LAYER[0], value if isinstance(value, list) else [value]))


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and value.rpartition(".")[2].lower() in ACTIVATIONS


_SIZE: Final = _is_integer(1, MAX_DIMENSION)
_LAYER: Final = _is_integer(1, MAX_LAYERS)
_COUNT: Final = _is_integer(0, MAX_DIMENSION)
_FLAG: Final[tuple[Callable[[Any], bool], str]] = (lambda value: type(value) is bool, "true or false")

_RULES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **{name: _FLAG for name, value in DEFAULTS.items() if type(value) is bool},
    **dict.fromkeys(("num_tokens", "dim", "max_seq_len", "heads", "bucket_size", "ff_mult"), _SIZE),
    "pkm_layers": _or_null((_is_layers, f"a list of integers from 1 to {MAX_LAYERS}")),
    "pkm_num_keys": _SIZE,
    **dict.fromkeys(("full_attn_thres", "num_mem_kv", "n_local_attn_heads"), _COUNT),
    **dict.fromkeys(("dim_head", "emb_dim"), _or_null(_SIZE)),
    "depth": _is_integer(1, MAX_LAYERS),
    "n_hashes": _is_integer(1, MAX_NUM_HASHES),
    "axial_position_shape": _or_null((_is_shape, "a list of integers")),
    "ff_activation": _or_null((_is_activation, f"one of torch.nn's {', '.join(ACTIVATIONS)}")),
}


@dataclass(frozen=True)
class Keywords:
    """What a file of keyword arguments says.

    `values` has every keyword of DEFAULTS, also of those that its class does not have; `given` are the names
    that the file has; `ignored` maps those without effect to why; `wrapper` is None where the file says that
    there is none, and "unknown" where it does not say; `model_class` is the package's, and `says_class`
    whether the file says so.
    """

    path: Path
    values: Mapping[str, Any]
    given: frozenset[str]
    ignored: dict[str, str] = field(default_factory=dict)
    wrapper: str | None = "unknown"
    model_class: Architecture = MODEL_CLASS
    says_class: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def takes_vectors(self) -> bool:
        return self.model_class != MODEL_CLASS

    @property
    def own_values(self) -> dict[str, Any]:
        """Those of the keywords that the class has, by name."""
        return {name: self.values[name] for name in sorted(CLASSES[self.model_class].defaults)}

    def error(self, name: str, got: object, expected: str, fix: str = FIX) -> CheckpointError:
        """That the keyword `name` is not as it should be."""
        return CheckpointError(f"{self.path}: {name}", got, expected, fix)

    def describe(self, name: str) -> str:
        """The value, and whether it is the default."""
        text = one_line_repr(self.values[name])
        return text if name in self.given else f"none, which means {text}"


def read_keywords(path: Path) -> Keywords:
    """Read the JSON file `path`; CheckpointError when it is missing, broken, or has what is not supported."""
    raw = JsonFile("a JSON object", FIX, MAX_KEYWORDS_BYTES, CheckpointError, _no_file).read_object(path)
    known_by = _find_class(path, raw)
    refused = known_by.refused
    known_names = known_by.defaults.keys() | known_by.ignored.keys() | refused.keys()
    for name, value in raw.items():
        if name in refused and not any(
            type(value) is type(fine) and value == fine for fine in refused[name][0]
        ):
            fine, why = refused[name]
            raise CheckpointError(
                f"{path}: {name}", one_line_repr(value), f"{fine[0]!r}, as {why}", "train without it"
            )
        rule = _RULES.get(name)
        if rule is not None and name in known_by.nullable:
            rule = _or_null(rule)
        if rule is not None and not rule[0](value):
            raise CheckpointError(f"{path}: {name}", one_line_repr(value), rule[1], FIX)
        if name not in known_names | {CLASS_KEY, WRAPPER_KEY}:
            expected = f"keyword arguments of {known_by.name} of reformer-pytorch 1.4.4"
            raise CheckpointError(f"{path}: {name}", "a keyword that it does not have", expected, FIX)
    known = {name: value for name, value in raw.items() if name in known_by.defaults}
    values = {**known_by.neutral, **known_by.defaults, **known}
    ignored = {name: known_by.ignored[name] for name in raw if name in known_by.ignored}
    wrapper = raw.get(WRAPPER_KEY, "unknown")
    given = frozenset(known)
    return Keywords(path, values, given, ignored, wrapper, known_by.name, CLASS_KEY in raw)


def _find_class(path: Path, raw: dict[str, Any]) -> ClassKeywords:
    name = raw.get(CLASS_KEY, MODEL_CLASS)
    if not isinstance(name, str) or name not in CLASSES:
        why = OTHER_CLASSES.get(name) if isinstance(name, str) else None
        expected = f"one of {', '.join(CLASSES)}" + ("" if why is None else f", as {why}")
        raise CheckpointError(f"{path}: {CLASS_KEY}", one_line_repr(name), expected, "export another model")
    found, wrapper = CLASSES[name], raw.get(WRAPPER_KEY)
    if wrapper is not None and wrapper not in found.wrappers:
        expected = f"{' or '.join(found.wrappers)}, or null for none"
        raise CheckpointError(f"{path}: {WRAPPER_KEY}", one_line_repr(wrapper), expected, FIX)
    return found


def _no_file(path: Path) -> CheckpointError:
    return CheckpointError(
        "config",
        f"{path}, which does not exist",
        "a JSON file of the keyword arguments that the model was made with",
        "write one",
    )
