"""Every kernel once on small shapes, for compute-sanitizer.

    compute-sanitizer --tool memcheck python -m tests.gpu.small_shapes [--device cpu|cuda]

Each tensor gets memory of its own, so that a step past its end is an error and not another tensor's.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")  # read when torch first allocates

import torch

from reformer_export.libraries.operators import find_native_library
from reformer_export.ops.native_kernels import Backend, NativeKernels
from tests.gpu.cases import Shape, make_case

METHODS = {
    "LSHBuckets": "lsh_buckets",
    "LSHAttention": "lsh_attention",
    "LocalAttention": "local_attention",
    "ResidualNorm": "residual_norm",
    "FinalNorm": "final_norm",
    "LSHAttentionStep": "lsh_attention_step",
    "LocalAttentionStep": "local_attention_step",
}
SHAPES = [
    Shape(1, head_size=1, rounds=1, chunk=1),
    Shape(7, chunk=8),
    Shape(150, heads=1, head_size=64, chunk=64, mask="all", batch=2),
    Shape(130, heads=1, head_size=37, rounds=3, chunk=20, after=1, causal=False),
    Shape(260, heads=1, head_size=128, rounds=2, chunk=64),
    Shape(100, heads=1, head_size=256, rounds=1, chunk=32),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    device = parser.parse_args().device
    library = find_native_library("on")
    assert library is not None
    backend: Backend = "cuda" if device == "cuda" else "cpu"
    kernels = NativeKernels(library, backend)
    count = 0
    for shape in SHAPES:
        for dtype in DTYPES:
            for operator, method in METHODS.items():
                tensors, attributes = make_case(operator, shape, dtype)
                result = getattr(kernels, method)(*(t.to(device) for t in tensors), *attributes.values())
                results = result if isinstance(result, tuple) else (result,)
                if not all(tensor.float().isfinite().all() for tensor in results):
                    print(f"{operator} {shape.name} {dtype}: got a value that is not finite", file=sys.stderr)
                    return 1
                count += 1
    print(f"{count} calls on {device} with library {library}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
