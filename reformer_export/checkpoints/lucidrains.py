"""Load a model of reformer-pytorch: a file of tensors and one of keyword arguments -> Checkpoint.

The package itself is not needed. Everything is checked before a tensor is read: the keywords by themselves,
then against the tensors' names and shapes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from reformer_export.artifact.files import sha256_of_file
from reformer_export.checkpoints.checkpoint import Checkpoint, LoadOptions
from reformer_export.checkpoints.lucidrains_facts import (
    SAVE_AGAIN,
    Facts,
    StoredTensors,
    position_kind,
    read_names,
)
from reformer_export.checkpoints.lucidrains_keywords import CLASS_KEY, CLASSES, Keywords, read_keywords
from reformer_export.checkpoints.lucidrains_model import spec_from_keywords
from reformer_export.checkpoints.lucidrains_names import other_names, parameter_names
from reformer_export.checkpoints.lucidrains_product_keys import (
    choose_layers,
    convert_memories,
    read_facts,
    spec_of_memories,
)
from reformer_export.checkpoints.weights import WeightFiles, open_weights_file
from reformer_export.errors import CheckpointError, InputError, reason_of
from reformer_export.lucidrains_spec import LucidrainsSpec

KIND: Final = "lucidrains"
"""In a manifest's source: whose checkpoint it was."""

TIED_HEAD: Final = "lm_head.decoder.weight"
"""The one weight that is computed by a sum, where it is the word embeddings at unit length: the order of the
sum is the processor's, and so are last places."""


def load_lucidrains(source: str, config: Path, options: LoadOptions) -> Checkpoint:
    """Read the checkpoint file `source` (torch.save or safetensors) with the keyword arguments in `config`.

    Raises:
        CheckpointError: a file is missing or broken, a keyword is not supported, or the two contradict.
        SpecError: the keywords ask for what such a model cannot do.
        InputError: the options do not fit it.
    """
    file = Path(source)
    if not file.is_file():
        got = f"the folder {source}" if file.is_dir() else f"{source!r}, which does not exist"
        expected = "a file of tensors, such as model.pt or model.safetensors, beside `config`"
        raise CheckpointError("checkpoint", got, expected, "give it, or leave `config` out")
    try:
        return _load(file, config, options)
    except OSError as error:
        reason = f"'{reason_of(error)}' while reading it"
        raise CheckpointError(file, reason, "a readable file", "check the disk and permissions") from error


def read_lucidrains_state(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint `file` in float32, by the package's names."""
    files = open_weights_file(file)
    prefix = read_names(file, files.headers).prefix
    return {name.removeprefix(prefix): tensor for name, tensor in files.read(files.headers).items()}


def select_weights(
    state: Mapping[str, torch.Tensor], spec: LucidrainsSpec, keywords: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """The model's weights, as `load_lucidrains` gives them, from the package's own `state`, float32 by its
    names; `keywords` as a manifest's source has them."""
    known = CLASSES[spec.architecture]
    values = {**known.neutral, **known.defaults, **keywords}
    complete = Keywords(Path(), values, frozenset(keywords), model_class=spec.architecture)
    parameters = parameter_names(complete, spec.head_size, spec.product_keys)
    weights = {}
    for ours, (theirs, _) in parameters.items():
        if spec.task == "feature-extraction" and ours.startswith("lm_head."):
            continue
        if theirs not in state:
            expected = "it, in the model that the manifest describes"
            raise CheckpointError("weights", f"no tensor {theirs}", expected, "export again")
        weights[ours] = state[theirs]
    return _convert(weights, spec)


def _convert(weights: dict[str, torch.Tensor], spec: LucidrainsSpec) -> dict[str, torch.Tensor]:
    """`weights` in the canonical model's own form, in place."""
    if TIED_HEAD in weights and spec.ties_embedding:
        weights[TIED_HEAD] = torch.nn.functional.normalize(weights[TIED_HEAD], dim=-1)
    convert_memories(weights, [f"encoder.layers.{i}.feed_forward.memory" for i in spec.memory_layers])
    return weights


def _load(file: Path, config: Path, options: LoadOptions) -> Checkpoint:
    _refuse_options(options)
    keywords = read_keywords(config)
    files = open_weights_file(file)
    stored = read_names(file, files.headers)
    _compare_class(keywords, stored)
    keywords = _complete(keywords, stored, options)
    wrapper = _choose_wrapper(keywords, stored)
    spec, choices = spec_from_keywords(keywords, wrapper is not None, options)
    memories = spec_of_memories(keywords, read_facts(stored.shapes).query_norm)
    spec = dataclasses.replace(spec, product_keys=memories)
    selected = _select_tensors(stored, keywords, spec)
    weights = _convert(_read_weights(files, stored, selected), spec)
    read = sorted({name for names in selected.values() for name in names})
    source = {
        "kind": KIND,
        "name": file.name,
        "class": keywords.model_class,
        "wrapper": wrapper,
        "files": {path.name: sha256_of_file(path) for path in (file, config)},
        "keywords": {name: _to_json(value) for name, value in keywords.own_values.items()},
        "ignored_keywords": keywords.ignored,
        "stored_dtypes": sorted({files.headers[stored.prefix + name].dtype for name in read}),
        **choices,
    }
    return Checkpoint(spec=spec, weights=weights, folder=file.parent, source=source, file=file)


def _to_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_options(options: LoadOptions) -> None:
    for name, left_out in (("num_buckets", None), ("feed_forward_slices", 1), ("revision", None)):
        if getattr(options, name) != left_out:
            expected = "none for a model of reformer-pytorch"
            raise InputError(name, getattr(options, name), expected, f"leave `{name}` out")


def _compare_class(keywords: Keywords, stored: StoredTensors) -> None:
    given, found = keywords.model_class, stored.model_class
    if given != found:
        got = given if keywords.says_class else f"none, which means {given}"
        raise keywords.error(CLASS_KEY, got, f"{found}, as there is the tensor {stored.because}")


def _complete(keywords: Keywords, stored: StoredTensors, options: LoadOptions) -> Keywords:
    """`keywords` with what follows from the tensors and from other keywords; CheckpointError where the two
    contradict, or where nothing says what a keyword is."""
    facts, values = Facts(stored), dict(keywords.values)
    if not keywords.takes_vectors:
        _compare_positions(keywords, stored)
    if values["use_rezero"]:
        values["use_scale_norm"] = False  # which has no effect beside it
    for name, fact in facts.values.items():
        if values[name] is None:
            values[name] = values["dim"] if name == "emb_dim" else fact
        if values[name] != fact:
            got = dataclasses.replace(keywords, values=values).describe(name)
            raise keywords.error(name, got, f"{fact}, as {facts.because[name]}")
    values["pkm_layers"] = choose_layers(values["pkm_layers"], values["depth"])
    facts.memories.check_layers(keywords, values["pkm_layers"])
    if values["axial_position_emb"]:
        _complete_axes(values, stored)
    is_ours = keywords.takes_vectors
    if is_ours:
        _complete_vectors(values, options)
    if values["max_seq_len"] is None:
        expected = "the greatest length, in tokens, which no tensor says"
        raise keywords.error("max_seq_len", "none", expected, "add it" + " or give `max_length`" * is_ours)
    if values["dim_head"] is None:
        if values["dim"] % values["heads"]:
            raise keywords.error("heads", values["heads"], f"a divisor of dim = {values['dim']}")
        values["dim_head"] = values["dim"] // values["heads"]
    return dataclasses.replace(keywords, values=values)


def _complete_vectors(values: dict[str, Any], options: LoadOptions) -> None:
    """What a model without words has by the package's rules, and its greatest length by `max_length`."""
    values["emb_dim"] = values["dim"]
    if values["full_attn_thres"] is None:
        values["full_attn_thres"] = values["bucket_size"]
    if values["max_seq_len"] is None and options.max_length is not None:
        values["max_seq_len"] = options.max_length + 2 * values["bucket_size"]  # `max_length` cuts it


def _compare_positions(keywords: Keywords, stored: StoredTensors) -> None:
    kind, tensor = position_kind(stored)
    chosen = next((name for name in _POSITIONS if keywords[name]), "")
    if chosen != kind:
        expected = f"{kind} true" if kind else "none of them, for rotary positions"
        because = f"{expected}, as there is {tensor}"
        raise keywords.error(" / ".join(_POSITIONS), chosen or "none of them", because)


def _complete_axes(values: dict[str, Any], stored: StoredTensors) -> None:
    """The grid of axial positions by the package's rule, or as the tensors have it, and its size."""
    if values["axial_position_shape"] is None and values["max_seq_len"] is not None:
        rows = math.ceil(values["max_seq_len"] / values["bucket_size"])
        values["axial_position_shape"] = (rows, values["bucket_size"])
    if values["axial_position_shape"] is None:
        values["axial_position_shape"] = _axial_shape(stored)
    if values["max_seq_len"] is None:
        values["max_seq_len"] = math.prod(values["axial_position_shape"])


_POSITIONS: Final = ("axial_position_emb", "absolute_position_emb", "fixed_position_emb")
"""Keywords that choose positions, the one that wins first; rotary ones without any."""


def _axial_shape(stored: StoredTensors) -> tuple[int, ...]:
    count = sum(name.startswith("pos_emb.weights.") for name in stored.shapes)
    shapes = [stored.shapes.get(f"pos_emb.weights.{axis}", ()) for axis in range(count)]
    if any(len(shape) != count + 2 for shape in shapes):
        raise stored.error("axial positions of other axes", f"pos_emb.weights with {count + 2} axes each")
    return tuple(shape[axis + 1] for axis, shape in enumerate(shapes))


def _choose_wrapper(keywords: Keywords, stored: StoredTensors) -> str | None:
    """What pads the sequence: what the keywords say, else what the names do."""
    saved = (None, "Autopadder", "TrainingWrapper")[stored.num_wrappers]
    if keywords.wrapper == "unknown":
        return saved
    if saved is not None and keywords.wrapper != saved:
        expected = f"{saved}, as the tensors' names begin with {stored.prefix}"
        raise keywords.error("wrapper", repr(keywords.wrapper), expected)
    return keywords.wrapper


def _select_tensors(
    stored: StoredTensors, keywords: Keywords, spec: LucidrainsSpec
) -> dict[str, tuple[str, ...]]:
    """Every parameter -> the names under which it is stored; CheckpointError when names or shapes do not
    fit."""
    depth, is_tied = keywords["depth"], keywords["weight_tie"]
    known: set[str] = set()
    selected: dict[str, tuple[str, ...]] = {}
    parameters = parameter_names(keywords, keywords["dim_head"], spec.product_keys)
    for parameter, (name, shape) in parameters.items():
        names = other_names(name, depth, is_tied, spec.memory_layers)
        found = tuple(other for other in names if other in stored.shapes)
        if not found:
            raise stored.error(f"no tensor {name}", f"it, as {keywords.path} describes a model that has it")
        for other in found:
            if stored.shapes[other] != shape:
                _refuse_shape(stored, keywords, other, shape)
        known.update(names)
        if spec.task != "feature-extraction" or not parameter.startswith("lm_head."):
            selected[parameter] = found
    unknown = sorted(stored.shapes.keys() - known)
    if unknown:
        expected = f"only tensors of the model that {keywords.path} describes"
        raise stored.error(f"the tensor {unknown[0]!r:.100}", expected, "mend the keyword arguments")
    return selected


def _refuse_shape(stored: StoredTensors, keywords: Keywords, name: str, shape: tuple[int, ...]) -> None:
    got, size = stored.shapes[name], keywords["dim_head"]
    if name.endswith(("toqk.weight", "tov.weight")) and len(got) == 2 and got[1] == shape[1]:
        named = "heads x dim_head" if name.endswith("toqk.weight") else "one_value_head"
        value = f"{keywords['heads']} x {size} = {keywords['heads'] * size}"
        value = value if named.startswith("heads") else keywords.describe(named)
        raise keywords.error(named, value, f"{got[0]} rows, as {name} has, and not {shape[0]}")
    raise stored.error(f"{name} of shape {list(got)}", f"{list(shape)} by {keywords.path}", SAVE_AGAIN)


def _read_weights(
    files: WeightFiles, stored: StoredTensors, selected: dict[str, tuple[str, ...]]
) -> dict[str, torch.Tensor]:
    """The tensors by parameter, one for those that share their names; CheckpointError when two names of one
    tensor differ."""
    read: dict[str, torch.Tensor] = {}
    weights = {}
    for parameter, names in selected.items():
        first = stored.prefix + min(names)
        if first not in read:
            read[first] = files.read([first])[first]
            for name in names:
                other = stored.prefix + name
                if other != first and not torch.equal(files.read([other])[other], read[first]):
                    got = f"{first} and {other}, which differ"
                    raise stored.error(got, "equal ones, as they are one tensor of the model", SAVE_AGAIN)
        weights[parameter] = read[first]
    return weights
