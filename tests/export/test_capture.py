"""A captured program is translated as it is, unless it writes in place, and computes what its module does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from reformer_export.export.capture import capture


class Pure(torch.nn.Module):
    """Casts that change something and none, and a length that only a run knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        limit = torch.where(torch.ones_like(x[0, :, 0]).sum() > 4, x.shape[1], 1).item()
        torch._check(limit >= 1)
        torch._check(limit <= x.shape[1])
        rows = x.index_select(1, torch.arange(limit))
        return (rows.to(torch.float32).double() * 3).to(torch.float32)


class InPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y[:, 0].add_(1.0)
        return y


@pytest.mark.parametrize(("kind", "is_translated_as_it_is"), [(Pure, True), (InPlace, False)])
def test_the_file_computes_what_the_module_does(
    kind: type[torch.nn.Module], is_translated_as_it_is: bool
) -> None:
    model, axes = kind().eval(), {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}}
    program: Any = capture(model, (torch.ones(2, 5, 3),), axes)
    assert (program.run_decompositions() is program) == is_translated_as_it_is
    exported = torch.onnx.export(program, (), dynamo=True, dynamic_shapes=axes, verbose=False)
    assert exported is not None
    session = ort.InferenceSession(exported.model_proto.SerializeToString())
    for shape in ((1, 7, 3), (3, 4, 3), (2, 1, 3)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        (got,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_array_equal(got, model(x).numpy())
