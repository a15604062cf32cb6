"""The ctypes structs against those of the C header: names, order and types, and so sizes and offsets."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

from reformer_export.ops import native_structs

HEADER = (Path(__file__).parents[2] / "plugins/include/reformer_kernels.h").read_text()
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "reformer_tensor": native_structs.Tensor,
    "reformer_execution": native_structs.Execution,
    "reformer_chunking": native_structs.Chunking,
    "reformer_lsh_buckets_params": native_structs.LSHBuckets,
    "reformer_lsh_attention_params": native_structs.LSHAttention,
    "reformer_local_attention_params": native_structs.LocalAttention,
    "reformer_residual_norm_params": native_structs.ResidualNorm,
    "reformer_linear_params": native_structs.Linear,
    "reformer_lsh_attention_step_params": native_structs.LSHAttentionStep,
    "reformer_local_attention_step_params": native_structs.LocalAttentionStep,
    "reformer_lsh_buckets_step_params": native_structs.LSHBucketsStep,
}
TYPES: dict[str, Any] = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
    "void*": ctypes.c_void_p,
    "char*": ctypes.c_char_p,
    "reformer_parallel_for": native_structs.ParallelFor,
    **STRUCTS,
}


def read_fields(struct: str) -> list[tuple[str, Any]]:
    """A struct's fields as ctypes has them."""
    code = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    defined = re.search(rf"typedef struct {struct} \{{(.*?)\}} {struct};", code, flags=re.DOTALL)
    assert defined is not None
    fields = []
    for declaration in defined[1].split(";")[:-1]:
        kind, name, count = re.fullmatch(r"\s*(\w+\*?) (\w+)(?:\[(\w+)\])?\s*", declaration).groups()
        fields.append((name, TYPES[kind] * read_constant(count) if count else TYPES[kind]))
    return fields


def read_constant(name: str) -> int:
    return int(re.search(rf"#define {name} (\d+)", HEADER)[1])


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_struct_has_the_headers_fields(struct):
    assert list(STRUCTS[struct]._fields_) == read_fields(struct)


def test_every_struct_that_a_call_takes_is_restated():
    found = re.findall(r"typedef struct (\w+) \{", HEADER)
    assert set(found) == {*STRUCTS, "reformer_library"}  # that one stands in reformer_export.native
