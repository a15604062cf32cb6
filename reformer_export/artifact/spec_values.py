"""A ModelSpec as the JSON values that stand in a manifest, and back."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from reformer_export.custom_spec import AttentionUse, CustomSpec, CustomTensor, Dimension, custom_spec
from reformer_export.errors import SpecError
from reformer_export.lucidrains_spec import (
    LucidrainsSpec,
    NoPositionsSpec,
    RotaryPositionsSpec,
    SinusoidalPositionsSpec,
    SummedAxialPositionsSpec,
)
from reformer_export.product_keys_spec import ProductKeysSpec
from reformer_export.spec import (
    AxialPositionsSpec,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    ModelSpec,
)

_POSITIONS: Final[dict[str, type[Any]]] = {
    "axial": AxialPositionsSpec,
    "learned": LearnedPositionsSpec,
    "summed axial": SummedAxialPositionsSpec,
    "rotary": RotaryPositionsSpec,
    "sinusoidal": SinusoidalPositionsSpec,
    "none": NoPositionsSpec,
}
_LAYERS: Final[dict[str, type[Any]]] = {"lsh": LSHAttentionSpec, "local": LocalAttentionSpec}
_KIND_OF: Final = {kind_type: kind for kind, kind_type in (_POSITIONS | _LAYERS).items()}

_FAMILY: Final = "family"
_FAMILIES: Final[dict[str, type[ModelSpec]]] = {"transformers": ModelSpec, "lucidrains": LucidrainsSpec}
"""Whose Reformer it is; the values of transformers' do not say so, as older versions did not."""

_CUSTOM: Final = "custom"
_CUSTOM_FIELDS: Final[dict[str, type[Any]]] = {
    "inputs": CustomTensor,
    "outputs": CustomTensor,
    "dimensions": Dimension,
    "uses": AttentionUse,
}
"""The family of a user's own module, and what is said of it beside its layers."""


def values_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Plain JSON values; `spec_from_values` reads them back."""
    values = dataclasses.asdict(spec)
    if isinstance(spec, CustomSpec):
        own = {name: values[name] for name in _CUSTOM_FIELDS}
        return {_FAMILY: _CUSTOM, **own, "layers": _layer_values(spec, values)}
    if isinstance(spec, LucidrainsSpec):
        values = {_FAMILY: "lucidrains", **values}
    values["positions"] = {"kind": _KIND_OF[type(spec.positions)], **values["positions"]}
    values["layers"] = _layer_values(spec, values)
    return values


def _layer_values(spec: ModelSpec, values: dict[str, Any]) -> list[dict[str, Any]]:
    pairs = zip(spec.layers, values["layers"], strict=True)
    return [{"kind": _KIND_OF[type(layer)], **fields} for layer, fields in pairs]


def spec_from_values(values: dict[str, Any]) -> ModelSpec:
    """The ModelSpec that `values_from_spec` gave; SpecError when it is none."""
    try:
        layers = tuple(_of_kind(_LAYERS, layer) for layer in values["layers"])
        if values.get(_FAMILY) == _CUSTOM:
            own = {
                name: tuple(kind(**_with_tuples(each)) for each in values[name])
                for name, kind in _CUSTOM_FIELDS.items()
            }
            return custom_spec(**own, layers=layers)
        positions = _of_kind(_POSITIONS, values["positions"])
        family = values.get(_FAMILY, "transformers")
        if family not in _FAMILIES:
            raise ValueError(f"{_FAMILY} {family!r} is none of {tuple(_FAMILIES)}")
        fields = {name: value for name, value in values.items() if name != _FAMILY}
        if fields.get("product_keys") is not None:
            fields["product_keys"] = ProductKeysSpec(**_with_tuples(fields["product_keys"]))
        return _FAMILIES[family](**{**fields, "positions": positions, "layers": layers})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(
            "model description",
            f"fields that do not fit ({error})",
            "those of ModelSpec",
            "export the checkpoint again with this version",
        ) from error


def _of_kind(kinds: dict[str, type[Any]], values: dict[str, Any]) -> Any:
    fields = _with_tuples(values)
    kind = fields.pop("kind")
    if kind not in kinds:
        raise ValueError(f"kind {kind!r} is none of {tuple(kinds)}")
    return kinds[kind](**fields)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they are in a spec."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
