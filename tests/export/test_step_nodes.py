"""The step operators from a traced module to nodes and bodies that a runtime takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from reformer_export import ops
from reformer_export.contract import DOMAIN
from reformer_export.export.functions import attach_function_bodies, custom_translation_table
from tests.ops.backends import NATIVE_NAMES, OUTPUT_NAMES, open_session, require_native
from tests.ops.step_cases import WHOLE, expected_caches, expected_output, make_case


class Step(torch.nn.Module):
    """A step operator and its attributes."""

    def __init__(self, name, attributes):
        super().__init__()
        self.step, self.attributes = getattr(ops, name), tuple(attributes.values())

    def forward(self, *tensors):
        return self.step(*tensors, *self.attributes)


def trace(operator, case):
    """A graph whose batch, new tokens and capacity are symbolic."""
    sizes = {name: torch.export.Dim(name, min=1, max=4096) for name in ("batch", "new", "capacity")}
    shapes = []
    for name, value in case.inputs.items():
        axes = {0: sizes["batch"]}
        if not name.endswith("lengths"):
            free = name.startswith("past") and operator == "LSHAttentionStep"
            axis = 3 if value.ndim == 4 else 1
            if free or not name.startswith("past"):
                axes[axis] = sizes["capacity" if free else "new"]
        shapes.append(axes)
    program = torch.onnx.export(
        Step(NATIVE_NAMES[operator], case.attributes).eval(),
        tuple(torch.from_numpy(value) for value in case.inputs.values()),
        dynamo=True,
        opset_version=20,
        input_names=list(case.inputs),
        output_names=OUTPUT_NAMES[operator],
        dynamic_shapes={"tensors": tuple(shapes)},
        custom_translation_table=custom_translation_table(),
        verbose=False,
    )
    attach_function_bodies(program.model)
    return program.model


@pytest.mark.parametrize("operator", WHOLE)
def test_a_traced_step_runs_with_and_without_the_library(operator):
    """Traced with a prompt among its rows, run with steps on other sizes."""
    rng = np.random.default_rng(5)
    traced = make_case(rng, operator, lengths=([0, 9], [4, 1]))
    model = trace(operator, traced)
    (node,) = [node for node in model.graph if node.domain == DOMAIN]
    assert node.op_type == operator
    plugin = [node.attributes[name].value for name in ("plugin_namespace", "plugin_version")]
    assert plugin == ["reformer", "1"]
    assert {name for _, name, _ in model.functions} == {operator, WHOLE[operator]}
    serialized = ir.serde.serialize_model(model).SerializeToString()
    width = next(iter(traced.inputs.values())).shape[2]
    case = traced
    while (
        case is traced or next(iter(case.inputs.values())).shape[2] != width or rounds(case) != rounds(traced)
    ):
        lengths = ([11, 30, 7], [1, 1, 1])
        case = make_case(rng, operator, attributes=traced.attributes, lengths=lengths)
    for library in (None, str(require_native().path)):
        results = open_session(serialized, library).run(OUTPUT_NAMES[operator], case.inputs)
        np.testing.assert_allclose(results[0], expected_output(operator, case), atol=5e-6, rtol=5e-6)
        for got, cache in zip(results[1:], expected_caches(operator, case), strict=True):
            np.testing.assert_array_equal(got, cache)


def rounds(case):
    return case.inputs["new_buckets"].shape[2] if "new_buckets" in case.inputs else 1
