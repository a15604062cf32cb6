"""The native library's C interface on torch tensors, on the CPU or a CUDA GPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

import torch

from reformer_export.contract import (
    FINAL_NORM,
    LINEAR,
    LOCAL_ATTENTION,
    LOCAL_ATTENTION_STEP,
    LSH_ATTENTION,
    LSH_ATTENTION_STEP,
    LSH_BUCKETS,
    LSH_BUCKETS_STEP,
    RESIDUAL_NORM,
    Operator,
)
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.ops import empty_outputs
from reformer_export.ops import native_structs as structs

Backend = Literal["cpu", "cuda"]
Allocate = Callable[[int, torch.device], torch.Tensor]

ERROR_BYTES: Final = 512
DTYPES: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int32: 3, torch.int8: 4}


def allocate_workspace(size: int, device: torch.device) -> torch.Tensor:
    """uint8 [size]. On CUDA the allocator hands the memory on in the order of the stream, so that a workspace
    may be dropped as soon as the kernels that use it are enqueued."""
    return torch.empty(size, dtype=torch.uint8, device=device)


class NativeKernels:
    """The operators of one library on one backend.

    On the CPU they run on as many threads as torch uses; on CUDA they are enqueued on torch's current stream
    of the tensors' device, and nothing waits for them.
    """

    def __init__(
        self, library: NativeLibrary, backend: Backend = "cpu", allocate: Allocate = allocate_workspace
    ) -> None:
        self._library = ctypes.CDLL(str(library.path))
        self._library.reformer_status_text.restype = ctypes.c_char_p
        self._prefix = f"reformer_{backend}_"
        self._threaded = backend == "cpu"
        self._allocate = allocate

    def _run(self, name: str, operator: Operator, *arguments: Any, in_place: bool = False) -> Any:
        """The operator as its reference: on the tensors of its inputs, and then its attributes. `in_place`:
        the contiguous caches of a step themselves take the new tokens and are returned."""
        tensors = dict(zip(operator.inputs, arguments, strict=False))
        empty = getattr(empty_outputs, name)(*arguments)
        outputs = dict(zip(operator.outputs, empty if isinstance(empty, tuple) else (empty,), strict=True))
        if in_place:
            caches = [output for output in outputs if output.startswith("present_")]
            outputs |= {cache: tensors[f"past_{cache.removeprefix('present_')}"] for cache in caches}
        given = {field: tensor for field, tensor in (tensors | outputs).items() if tensor is not None}
        params = structs.make_params(operator, arguments[len(operator.inputs) :])
        self._call("residual_norm" if operator is FINAL_NORM else name, params, given)
        return tuple(outputs.values()) if isinstance(empty, tuple) else outputs[operator.outputs[0]]

    lsh_buckets = functools.partialmethod(_run, "lsh_buckets", LSH_BUCKETS)
    lsh_attention = functools.partialmethod(_run, "lsh_attention", LSH_ATTENTION)
    local_attention = functools.partialmethod(_run, "local_attention", LOCAL_ATTENTION)
    residual_norm = functools.partialmethod(_run, "residual_norm", RESIDUAL_NORM)
    final_norm = functools.partialmethod(_run, "final_norm", FINAL_NORM)
    lsh_attention_step = functools.partialmethod(_run, "lsh_attention_step", LSH_ATTENTION_STEP)
    local_attention_step = functools.partialmethod(_run, "local_attention_step", LOCAL_ATTENTION_STEP)
    lsh_buckets_step = functools.partialmethod(_run, "lsh_buckets_step", LSH_BUCKETS_STEP)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, *arguments: Any) -> torch.Tensor:
        """As `linear_reference`; x may be float32 where the weight is bfloat16."""
        y: torch.Tensor = self._run("linear", LINEAR, x.reshape(-1, weight.shape[1]), weight, *arguments)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def _call(self, name: str, params: Any, tensors: dict[str, torch.Tensor]) -> None:
        kept = {field: tensor.contiguous() for field, tensor in tensors.items()}
        device = next(iter(kept.values())).device
        for field, tensor in kept.items():
            if tensor.device != device:
                raise ValueError(f"{name}: got {field} on {tensor.device}, expected {device} as the others")
            setattr(params, field, _view(tensor))
        params.struct_size, params.abi_version = ctypes.sizeof(params), ABI_VERSION
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            self._execute(name, params, device)

    def _execute(self, name: str, params: Any, device: torch.device) -> None:
        error = ctypes.create_string_buffer(ERROR_BYTES)
        execution = params.execution
        execution.error, execution.error_size = ctypes.addressof(error), ERROR_BYTES
        execution.num_workers = threads = torch.get_num_threads() if self._threaded else 1
        execution.parallel_for = parallel = _parallel_for(threads)
        if device.type == "cuda":
            execution.stream = torch.cuda.current_stream(device).cuda_stream
        size = ctypes.c_uint64()
        status = self._library[f"{self._prefix}{name}_workspace"](ctypes.byref(params), ctypes.byref(size))
        if status == 0:
            workspace = self._allocate(size.value, device)
            execution.workspace, execution.workspace_size = workspace.data_ptr(), size.value
            status = self._library[f"{self._prefix}{name}"](ctypes.byref(params))
        del parallel
        if status != 0:
            text = self._library.reformer_status_text(status).decode()
            raise ValueError(f"{text}: {error.value.decode()}")


def _view(tensor: torch.Tensor) -> structs.Tensor:
    view = structs.Tensor(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.dim())
    view.dims[: tensor.dim()] = list(tensor.shape)
    return view


@functools.lru_cache(maxsize=8)
def _parallel_for(threads: int) -> Any:
    """The kernels' parallel_for on a pool of Python threads, which the kernels run without Python's lock."""
    if threads == 1:
        return structs.ParallelFor()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="reformer-kernels")

    def run_tasks(_context: int, total: int, task: Any, argument: int) -> None:
        list(pool.map(lambda index: task(argument, index), range(total)))

    return structs.ParallelFor(run_tasks)
