"""The native library's C interface on torch CPU tensors (structs of plugins/include/reformer_kernels.h)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch

from reformer_export.native import ABI_VERSION, NativeLibrary, find_native_library

MAX_BUCKET_FACTORS: Final = 30
MAX_RANK: Final = 4
ERROR_BYTES: Final = 512
DTYPES: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int32: 3}

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, _TASK, ctypes.c_void_p)


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MAX_RANK),
    ]


class _Execution(ctypes.Structure):
    _fields_ = [
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_uint64),
        ("parallel_for", _PARALLEL_FOR),
        ("parallel_context", ctypes.c_void_p),
        ("num_workers", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("error", ctypes.c_char_p),
        ("error_size", ctypes.c_uint64),
    ]


class _Chunking(ctypes.Structure):
    _fields_ = [
        ("chunk_length", ctypes.c_int64),
        ("num_chunks_before", ctypes.c_int64),
        ("num_chunks_after", ctypes.c_int64),
        ("padding_multiple", ctypes.c_int64),
        ("padding_threshold", ctypes.c_int64),
        ("is_causal", ctypes.c_int32),
    ]


_HEADER: Final = [
    ("struct_size", ctypes.c_uint32),
    ("abi_version", ctypes.c_uint32),
    ("num_heads", ctypes.c_int32),
]


class _LSHBuckets(ctypes.Structure):
    _fields_ = [
        *_HEADER,
        ("num_factors", ctypes.c_int32),
        ("num_buckets", ctypes.c_int32 * MAX_BUCKET_FACTORS),
        *((name, _Tensor) for name in ("query_key", "rotations", "attention_mask", "buckets")),
        ("execution", _Execution),
    ]


class _LSHAttention(ctypes.Structure):
    _fields_ = [
        *_HEADER,
        ("key_norm_epsilon", ctypes.c_float),
        ("chunking", _Chunking),
        *((name, _Tensor) for name in ("query_key", "value", "buckets", "attention_mask", "output")),
        ("execution", _Execution),
    ]


class _LocalAttention(ctypes.Structure):
    _fields_ = [
        *_HEADER,
        ("chunking", _Chunking),
        *((name, _Tensor) for name in ("query", "key", "value", "attention_mask", "output")),
        ("execution", _Execution),
    ]


class CPUKernels:
    """The three operators of one library, on as many threads as torch uses."""

    def __init__(self, library: NativeLibrary) -> None:
        self._library = ctypes.CDLL(str(library.path))
        self._library.reformer_status_text.restype = ctypes.c_char_p

    def lsh_buckets(
        self,
        query_key: torch.Tensor,
        rotations: torch.Tensor,
        attention_mask: torch.Tensor,
        num_heads: int,
        num_buckets: Sequence[int],
    ) -> torch.Tensor:
        """As `lsh_buckets_reference`."""
        shape = (query_key.shape[0], rotations.shape[0], rotations.shape[2], query_key.shape[1])
        buckets = torch.empty(shape, dtype=torch.int32)
        params = _LSHBuckets(num_heads=num_heads, num_factors=len(num_buckets))
        params.num_buckets[: len(num_buckets)] = list(num_buckets)
        tensors = {"query_key": query_key, "rotations": rotations, "attention_mask": attention_mask}
        self._call("reformer_cpu_lsh_buckets", params, {**tensors, "buckets": buckets})
        return buckets

    def lsh_attention(
        self,
        query_key: torch.Tensor,
        value: torch.Tensor,
        buckets: torch.Tensor,
        attention_mask: torch.Tensor,
        num_heads: int,
        *chunking: Any,
    ) -> torch.Tensor:
        """As `lsh_attention_reference`; `chunking` are its arguments after `num_heads`."""
        *geometry, key_norm_epsilon = chunking
        output = torch.empty_like(query_key, memory_format=torch.contiguous_format)
        params = _LSHAttention(num_heads=num_heads, key_norm_epsilon=key_norm_epsilon)
        params.chunking = _chunking(*geometry)
        tensors = {"query_key": query_key, "value": value, "buckets": buckets}
        tensors |= {"attention_mask": attention_mask, "output": output}
        self._call("reformer_cpu_lsh_attention", params, tensors)
        return output

    def local_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        num_heads: int,
        *chunking: Any,
    ) -> torch.Tensor:
        """As `local_attention_reference`; `chunking` are its arguments after `num_heads`."""
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        params = _LocalAttention(num_heads=num_heads, chunking=_chunking(*chunking))
        tensors = {"query": query, "key": key, "value": value}
        tensors |= {"attention_mask": attention_mask, "output": output}
        self._call("reformer_cpu_local_attention", params, tensors)
        return output

    def _call(self, name: str, params: Any, tensors: dict[str, torch.Tensor]) -> None:
        kept = {field: tensor.contiguous() for field, tensor in tensors.items()}
        for field, tensor in kept.items():
            setattr(params, field, _view(tensor))
        threads = torch.get_num_threads()
        error = ctypes.create_string_buffer(ERROR_BYTES)
        params.struct_size, params.abi_version = ctypes.sizeof(params), ABI_VERSION
        params.execution.num_workers = threads
        params.execution.parallel_for = parallel = _parallel_for(threads)
        params.execution.error, params.execution.error_size = ctypes.addressof(error), ERROR_BYTES
        size = ctypes.c_uint64()
        status = self._library[f"{name}_workspace"](ctypes.byref(params), ctypes.byref(size))
        if status == 0:
            workspace = torch.empty(size.value, dtype=torch.uint8)
            params.execution.workspace = workspace.data_ptr()
            params.execution.workspace_size = size.value
            status = self._library[name](ctypes.byref(params))
        del parallel
        if status != 0:
            text = self._library.reformer_status_text(status).decode()
            raise ValueError(f"{text}: {error.value.decode()}")


def _view(tensor: torch.Tensor) -> _Tensor:
    view = _Tensor(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.dim())
    view.dims[: tensor.dim()] = list(tensor.shape)
    return view


def _chunking(
    chunk_length: int,
    num_chunks_before: int,
    num_chunks_after: int,
    is_causal: bool,
    padding_multiple: int,
    padding_threshold: int,
) -> _Chunking:
    return _Chunking(
        chunk_length, num_chunks_before, num_chunks_after, padding_multiple, padding_threshold, int(is_causal)
    )


@functools.lru_cache(maxsize=8)
def _parallel_for(threads: int) -> Any:
    """The kernels' parallel_for on a pool of Python threads, which the kernels run without Python's lock."""
    if threads == 1:
        return _PARALLEL_FOR()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="reformer-kernels")

    def run_tasks(_context: int, total: int, task: Any, argument: int) -> None:
        list(pool.map(lambda index: task(argument, index), range(total)))

    return _PARALLEL_FOR(run_tasks)


@functools.lru_cache(maxsize=1)
def cpu_kernels() -> CPUKernels | None:
    """The kernels of the installed library, or None without one."""
    library = find_native_library("auto")
    return None if library is None else CPUKernels(library)


def kernels_for(*tensors: torch.Tensor) -> CPUKernels | None:
    """The kernels when they can take these tensors: on the CPU, and of a dtype they know."""
    fits = all(tensor.device.type == "cpu" and tensor.dtype in DTYPES for tensor in tensors)
    return cpu_kernels() if fits else None
