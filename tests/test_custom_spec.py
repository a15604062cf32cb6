"""The description of a user's own module: through JSON and back, and refused where it contradicts itself."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer_export.artifact.spec_values import spec_from_values, values_from_spec
from reformer_export.custom_spec import (
    TENSOR_TYPES,
    UNLIMITED,
    AttentionUse,
    CustomSpec,
    CustomTensor,
    Dimension,
    custom_spec,
)
from reformer_export.errors import SpecError
from reformer_export.spec import AttentionSpec, LocalAttentionSpec, LSHAttentionSpec

NAMES = st.text("abc_", min_size=1, max_size=4)


@st.composite
def specs(draw: st.DrawFn) -> CustomSpec:
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    sizes = st.integers(0, 9) | (st.sampled_from(names) if names else st.nothing())
    tensors = st.builds(
        CustomTensor, NAMES, st.sampled_from(TENSOR_TYPES), st.lists(sizes, max_size=3).map(tuple)
    )
    several = st.lists(tensors, min_size=1, max_size=3, unique_by=lambda each: each.name).map(tuple)
    inputs = draw(several)
    used = {size for each in inputs for size in each.shape if isinstance(size, str)}
    dimensions = []
    for name in sorted(used):
        least = draw(st.integers(1, 5))
        dimensions.append(Dimension(name, least, draw(st.integers(least, UNLIMITED))))
    layers: list[AttentionSpec] = []
    uses = []
    for call in range(draw(st.integers(0, 3))):
        hashes = draw(st.booleans())
        layers.append(LSHAttentionSpec(4, 1, 0, 2, (), call) if hashes else LocalAttentionSpec(4, 1, 1))
        columns = draw(st.integers(1, 9)) if hashes else 0
        uses.append(AttentionUse("a.0", call, "lucidrains", 2, 8, False, int(hashes), columns))
    layers = layers or [LocalAttentionSpec(4, 1, 1)]
    uses = uses or [AttentionUse("", 0, "transformers", 2, 8, True)]
    return custom_spec(inputs, draw(several), tuple(dimensions), tuple(layers), tuple(uses))


@given(specs())
def test_through_json_and_back(spec: CustomSpec) -> None:
    values = json.loads(json.dumps(values_from_spec(spec)))
    assert spec_from_values(values) == spec


def make() -> CustomSpec:
    return custom_spec(
        (CustomTensor("x", "float32", ("batch", "sequence", 3)),),
        (CustomTensor("y", "float32", ("batch", "2*sequence")),),
        (Dimension("batch", 1, UNLIMITED), Dimension("sequence", 2, 96)),
        (LSHAttentionSpec(4, 1, 0, 4, (), 7),),
        (AttentionUse("attention", 0, "lucidrains", 4, 8, False, 1, 12, 4),),
    )


def test_what_it_says_of_lengths_and_rotations() -> None:
    spec = make()
    assert (spec.max_length, spec.task, spec.takes_vectors) == (96, "custom", False)
    assert [spec.takes_length(length) for length in (1, 2, 96, 97)] == [False, True, True, False]
    assert spec.rotations_shape(0) == (1, 8, 4, 12)
    assert [spec.is_hashed(0, length) for length in (4, 5)] == [False, True]
    assert (spec.input_names, spec.output_names) == (("x",), ("y",))


def change(values: dict[str, Any], *path: Any, to: Any) -> None:
    *parents, last = path
    for key in parents:
        values = values[key]
    values[last] = to


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("inputs", 0, "dtype"), "complex64"),
        (("inputs", 0, "name"), 5),
        (("inputs", 0, "shape"), ["rows"]),
        (("inputs", 0, "shape"), [-1]),
        (("inputs", 0, "shape"), [True]),
        (("inputs", 0, "shape"), [1] * 20),
        (("outputs",), []),
        (("outputs", 0, "unknown"), 1),
        (("dimensions", 1, "name"), "batch"),
        (("dimensions", 1, "name"), "a b"),
        (("dimensions", 1, "maximum"), 1),
        (("dimensions", 1, "maximum"), 2**40),
        (("uses",), []),
        (("uses", 0, "family"), "others"),
        (("uses", 0, "path"), "a" * 2000),
        (("uses", 0, "num_heads"), 0),
        (("uses", 0, "rotation_columns"), 0),
        (("uses", 0, "rotation_columns"), 2**24),
        (("uses", 0, "is_causal"), 1),
        (("layers",), []),
        (("layers", 0, "num_hashes"), 10**6),
        (("family",), "customs"),
    ],
)
def test_values_that_contradict_or_are_out_of_range(path: tuple[Any, ...], value: Any) -> None:
    values = json.loads(json.dumps(values_from_spec(make())))
    change(values, *path, to=value)
    with pytest.raises(SpecError):
        spec_from_values(values)


def test_only_a_custom_spec_has_the_task() -> None:
    with pytest.raises(SpecError, match="task"):
        dataclasses.replace(make(), task="fill-mask")
