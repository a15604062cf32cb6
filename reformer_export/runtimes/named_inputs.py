"""What a run is given by the names of the graph's inputs: chosen, checked, and made what the graph takes.

A sequence and its mask, ids or vectors, are padded and checked as `inputs` says; the inputs of a custom
module are whole arrays of the shapes and types that its manifest names.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.artifact.signature import BATCH, SEQUENCE, GraphTensor
from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.runtimes.inputs import (
    LeftPaddingWarning,
    array_from_other,
    describe_left_padding,
    prepare_inputs,
)
from reformer_export.spec import DType

HOST_TYPES: Final[dict[str, Any]] = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "bool")},
    **{name: np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{name: np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
    "bfloat16": np.dtype(np.float32),
}
"""What numpy has for an input of each of a manifest's types; there is no bfloat16."""

GREATEST: Final = {"bfloat16": 3.3895313892515355e38}
"""The greatest number of a type that numpy does not know: (2 - 2^-7) 2^127."""


def choose_inputs(
    manifest: Manifest, input_ids: object, attention_mask: object, inputs_embeds: object
) -> dict[str, Any]:
    """What was given, by the names of the graph's inputs; InputError for what the model has not, or needs.
    `input_ids` may be a mapping of all of it, or, for a model that takes vectors, these."""
    spec = manifest.spec
    if isinstance(input_ids, Mapping):
        for name, value in (("attention_mask", attention_mask), ("inputs_embeds", inputs_embeds)):
            if value is not None:
                raise InputError(name, "it beside inputs by name", "one of them", "put it into the mapping")
        return _choose_by_name(manifest, input_ids)
    if manifest.is_custom:
        names = ", ".join(each.name for each in manifest.inputs)
        got = "none" if input_ids is None and inputs_embeds is None else type(input_ids).__name__
        raise InputError("inputs", got, f"a mapping with {names}", "give e.g. {'name': array}")
    name, mask_name = spec.input_names
    if input_ids is not None and inputs_embeds is not None:
        raise InputError("inputs_embeds", "`input_ids` too", "one of them", f"give {name} alone")
    if inputs_embeds is not None and not spec.takes_vectors:
        got, fix = "it for a model that takes token ids", "give `input_ids`"
        raise InputError("inputs_embeds", got, "`input_ids`", fix)
    given = input_ids if inputs_embeds is None else inputs_embeds
    return _choose_by_name(manifest, {name: given, mask_name: attention_mask})


def check_names(manifest: Manifest, names: Iterable[str]) -> None:
    """InputError unless `names` are those of inputs, and none is missing that has to be there: the mask of a
    sequence may be."""
    known = [each.name for each in manifest.inputs]
    given = list(names)
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InputError("inputs", one_line_repr(unknown), f"of {', '.join(known)}", "leave it out")
    needed = known if manifest.is_custom else known[:1]
    missing = next((name for name in needed if name not in given), None)
    if missing is not None:
        expected = "it" if manifest.is_custom else "a batch of sequences"
        raise InputError(missing, "none", expected, "give it")


def _choose_by_name(manifest: Manifest, given: Mapping[Any, Any]) -> dict[str, Any]:
    found = {name: value for name, value in given.items() if value is not None}
    check_names(manifest, found)
    return found


def prepare_feeds(
    manifest: Manifest, given: Mapping[str, Any], pad_token_id: int, dtype: DType
) -> dict[str, NDArray[Any]]:
    """Every input of a graph whose floats are `dtype`, from what `choose_inputs` chose; InputError says what
    does not fit. Float32 stands for bfloat16."""
    if manifest.is_custom:
        return prepare_named_inputs(manifest, given)[0]
    name, mask_name = manifest.spec.input_names
    batch, mask = prepare_inputs(manifest.spec, given[name], given.get(mask_name), pad_token_id, dtype)
    warning = describe_left_padding(mask)
    if warning is not None:
        warnings.warn(warning, LeftPaddingWarning, stacklevel=4)  # of the caller of `Runtime.run`
    return {name: batch, mask_name: mask}


def prepare_named_inputs(
    manifest: Manifest, given: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    """The inputs of a custom module, each in the type that `HOST_TYPES` has for the manifest's, and the sizes
    of the symbolic dimensions; InputError says what does not fit."""
    arrays = {each.name: array_of_type(each, given[each.name]) for each in manifest.inputs}
    sizes = manifest.signature.bind({name: array.shape for name, array in arrays.items()})
    return arrays, sizes


def array_of_type(tensor: GraphTensor, values: Any) -> NDArray[Any]:
    """`values` in the type that numpy has for the input `tensor`; InputError for other kinds of numbers, and
    for those that the type does not have. What is not finite stays so."""
    name, wanted = tensor.name, HOST_TYPES[tensor.dtype]
    expected, fix = f"an array of {tensor.dtype} {tensor.describe_shape()}", "mend it"
    if not isinstance(values, np.ndarray):
        values = array_from_other(name, values, fix, expected)
    try:
        array = np.asarray(values)
    except Exception as error:  # lists of unequal depth, or whatever an object of another library raises
        raise InputError(name, f"'{one_line(error)}'", expected, fix) from error
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[wanted.kind]
    if array.dtype.kind not in kinds:
        raise InputError(name, f"{array.dtype} of shape {list(array.shape)}", expected, fix)
    if array.size and array.dtype != wanted:
        _check_range(tensor, array, wanted)
    return np.require(array, wanted, ("C", "A"))


def least_sizes(manifest: Manifest) -> dict[str, int]:
    """The least size of each symbolic dimension of the inputs, 1 at least."""
    if manifest.is_custom:
        return {symbol: max(1, least) for symbol, (least, _) in manifest.signature.limits.items()}
    return {BATCH: 1, SEQUENCE: manifest.spec.shortest}


def count_values(manifest: Manifest, sizes: Mapping[str, int]) -> int:
    """Of all inputs of these sizes, which a manifest may set high."""
    return sum(math.prod(each.sizes(sizes)) for each in manifest.inputs)


def example_inputs(
    manifest: Manifest, sizes: Mapping[str, int], rng: np.random.Generator | None = None
) -> dict[str, NDArray[Any]]:
    """Inputs of these sizes that nothing is wrong with: floats are zeros, or normal numbers with `rng`. Of a
    custom module integers are ones, in which a mask hides nothing and an index is small; of sequences the ids
    are zeros, which every vocabulary has, and the mask is left out."""
    inputs = manifest.inputs if manifest.is_custom else manifest.inputs[:1]
    arrays = {}
    for tensor in inputs:
        shape, dtype = tensor.sizes(sizes), HOST_TYPES[tensor.dtype]
        if dtype.kind == "f":
            values: Any = 0.0 if rng is None else rng.standard_normal(shape, np.float32)
        else:
            values = int(manifest.is_custom)
        arrays[tensor.name] = np.full(shape, values, dtype)
    return arrays


def _check_range(tensor: GraphTensor, array: NDArray[Any], wanted: np.dtype[Any]) -> None:
    """InputError for a number that `wanted` does not have; floats are rounded."""
    if wanted.kind == "f":
        greatest = GREATEST.get(tensor.dtype, float(np.finfo(wanted).max))
        outside = np.isfinite(array) & (np.abs(array) > greatest)
    elif wanted.kind in "iu":
        limits = np.iinfo(wanted)
        outside = (array < limits.min) | (array > limits.max)
    else:
        return
    if outside.any():
        got = f"{array[outside][0]}"
        raise InputError(tensor.name, got, f"numbers that {tensor.dtype} has", "scale or mend them")
