"""The norms' kernels: every way to share a row among threads, against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gpu.backends import ALL_DEVICES, DTYPES, open_kernels
from tests.ops.test_residual_norm import EPSILON, NORMS, check, make_inputs

SIZES = (1, 7, 64, 256, 257, 264, 512, 768, 1000, 1024, 1032, 2048, 2056, 4096, 8192, 8200, 10001)
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", NORMS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_the_contract(device, size, operator, dtype):
    opened = open_kernels(device)
    rows = 3 if opened.is_emulated else 67
    inputs = make_inputs(np.random.default_rng(size), 2, rows, size, offset=-20.0, operator=operator)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    tensors["update"] = tensors["update"].to(dtype)
    inputs["update"] = tensors["update"].float().numpy()
    results = opened.run(operator, list(tensors.values()), EPSILON)
    *sums, normed = results if isinstance(results, tuple) else (results,)
    assert [x.dtype for x in (*sums, normed)] == [*([torch.float32] * len(sums)), dtype]
    got = [*(x.numpy() for x in sums), normed.float().numpy()]
    check(got if sums else got[0], inputs, EPSILON["epsilon"], ROUNDING[dtype], smallest=2.0**-25)
