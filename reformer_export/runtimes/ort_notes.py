"""What a user is told of how ONNX Runtime runs an artifact, and why not on CUDA's kernels."""

from __future__ import annotations

from typing import Final

from reformer_export.artifact.manifest import Manifest
from reformer_export.libraries.operators import MAX_CUDA_HEAD_SIZE, NativeLibrary
from reformer_export.spec import ModelSpec

BUILD_FOR_CUDA: Final = "`reformer-export build-library --cuda`"
BODIES_ON_CUDA: Final = (
    "Generic operators run on CUDA in place of the native kernels, 27 times slower than eager where it was "
    "measured (H200, 12 layers, 16,384 tokens)"
)
"""docs/gpu.md has the measurement, and why."""
TF32_ROUNDS: Final = (
    "Products on the GPU round float32 to TF32, whose mantissa has 10 bits: errors, and hashes that fall "
    "otherwise, are those of float16."
)
UPCAST: Final = (
    "ONNX Runtime has no bfloat16 kernels for the CPU: the bfloat16 weights were upcast to float32."
)
UPCAST_BUT_PRODUCTS: Final = (
    "Dense products run in bfloat16 with {}. ONNX Runtime has no other bfloat16 kernels for the CPU: all "
    "else was upcast to float32."
)
NO_INT8_PRODUCTS: Final = "Products of the int8 weights run on generic operators, in float32: {}."
OTHER_TYPES_ARE_FAST: Final = "products of float16 and bfloat16 are as fast without it"


def describe_products(manifest: Manifest, library: NativeLibrary | None) -> list[str]:
    """What is to be said of an artifact's dense products on the CPU."""
    notes = []
    if manifest.dtype == "bfloat16":
        products = None if library is None else library.bfloat16_products
        notes.append(UPCAST if products is None else UPCAST_BUT_PRODUCTS.format(products))
    if manifest.low_precision is not None and manifest.low_precision.weights == "int8":
        if library is None:
            notes.append(NO_INT8_PRODUCTS.format("no native library is used"))
        elif library.int8_products is None:
            notes.append(NO_INT8_PRODUCTS.format("the library uses none of AVX2, VNNI and AMX here"))
    return notes


def find_cuda_problem(library: NativeLibrary, spec: ModelSpec) -> str | None:
    """Why the library's CUDA kernels cannot run the model, whatever the GPU; None when they can."""
    if library.cuda_architectures is None:
        return "the native library was built without CUDA"
    if spec.head_size > MAX_CUDA_HEAD_SIZE:
        return f"heads of {spec.head_size} elements, where they take {MAX_CUDA_HEAD_SIZE}"
    return None
