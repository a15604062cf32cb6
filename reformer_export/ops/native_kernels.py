"""The native library's C interface on torch tensors, on the CPU or a CUDA GPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

import torch

from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.operators import NativeLibrary
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
        buckets = torch.empty(shape, dtype=torch.int32, device=query_key.device)
        params = structs.LSHBuckets(num_heads=num_heads, num_factors=len(num_buckets))
        params.num_buckets[: len(num_buckets)] = list(num_buckets)
        tensors = {"query_key": query_key, "rotations": rotations, "attention_mask": attention_mask}
        self._call("lsh_buckets", params, {**tensors, "buckets": buckets})
        return buckets

    def lsh_attention(
        self,
        query_key: torch.Tensor,
        value: torch.Tensor,
        buckets: torch.Tensor,
        attention_mask: torch.Tensor,
        num_heads: int,
        *attributes: Any,
    ) -> torch.Tensor:
        """As `lsh_attention_reference`; `attributes` are its arguments after `num_heads`."""
        output = torch.empty_like(query_key, memory_format=torch.contiguous_format)
        params = structs.lsh_params(structs.LSHAttention, num_heads, *attributes)
        tensors = {"query_key": query_key, "value": value, "buckets": buckets}
        tensors |= {"attention_mask": attention_mask, "output": output}
        self._call("lsh_attention", params, tensors)
        return output

    def local_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        num_heads: int,
        *attributes: Any,
    ) -> torch.Tensor:
        """As `local_attention_reference`; `attributes` are its arguments after `num_heads`."""
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        params = structs.local_params(structs.LocalAttention, num_heads, *attributes)
        tensors = {"query": query, "key": key, "value": value}
        tensors |= {"attention_mask": attention_mask, "output": output}
        self._call("local_attention", params, tensors)
        return output

    def residual_norm(
        self,
        stream: torch.Tensor,
        update: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        epsilon: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `residual_norm_reference`."""
        stream_out = torch.empty_like(stream, memory_format=torch.contiguous_format)
        normed = torch.empty_like(update, memory_format=torch.contiguous_format)
        tensors = {"stream": stream, "update": update, "scale": scale, "bias": bias}
        tensors |= {"stream_out": stream_out, "normed": normed}
        self._call("residual_norm", structs.ResidualNorm(epsilon=epsilon), tensors)
        return stream_out, normed

    def final_norm(
        self,
        other_stream: torch.Tensor,
        stream: torch.Tensor,
        update: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        epsilon: float,
    ) -> torch.Tensor:
        """As `final_norm_reference`."""
        normed = update.new_empty((*update.shape[:-1], *scale.shape))
        tensors = {"other_stream": other_stream, "stream": stream, "update": update}
        tensors |= {"scale": scale, "bias": bias, "normed": normed}
        self._call("residual_norm", structs.ResidualNorm(epsilon=epsilon), tensors)
        return normed

    def lsh_attention_step(
        self,
        query_key: torch.Tensor,
        value: torch.Tensor,
        new_buckets: torch.Tensor,
        past_query_key: torch.Tensor,
        past_value: torch.Tensor,
        past_buckets: torch.Tensor,
        lengths: torch.Tensor,
        new_lengths: torch.Tensor,
        num_heads: int,
        *attributes: Any,
        in_place: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """As `lsh_attention_step_reference`. `in_place`: the contiguous caches themselves take the new tokens
        and are returned."""
        params = structs.lsh_params(structs.LSHAttentionStep, num_heads, *attributes)
        tensors = {"query_key": query_key, "value": value, "new_buckets": new_buckets}
        past = {"query_key": past_query_key, "value": past_value, "buckets": past_buckets}
        tensors |= {"lengths": lengths, "new_lengths": new_lengths}
        return self._step("lsh_attention_step", params, tensors, past, in_place)

    def local_attention_step(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        past_key: torch.Tensor,
        past_value: torch.Tensor,
        lengths: torch.Tensor,
        new_lengths: torch.Tensor,
        num_heads: int,
        *attributes: Any,
        in_place: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """As `local_attention_step_reference`; `in_place` as in `lsh_attention_step`."""
        params = structs.local_params(structs.LocalAttentionStep, num_heads, *attributes)
        tensors = {"query": query, "key": key, "value": value}
        tensors |= {"lengths": lengths, "new_lengths": new_lengths}
        past = {"key": past_key, "value": past_value}
        return self._step("local_attention_step", params, tensors, past, in_place)

    def lsh_buckets_step(
        self,
        query_key: torch.Tensor,
        rotations: torch.Tensor,
        past_records: torch.Tensor,
        lengths: torch.Tensor,
        new_lengths: torch.Tensor,
        num_heads: int,
        padding_multiple: int,
        in_place: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """As `lsh_buckets_step_reference`; `in_place` as in `lsh_attention_step`, of the records."""
        batch, heads, _, capacity = past_records.shape
        shape = (batch, heads, rotations.shape[2])
        results = {
            "new_buckets": past_records.new_empty((*shape, query_key.shape[1])),
            "buckets": past_records.new_empty((*shape, capacity)),
            "present_records": past_records if in_place else past_records.new_empty(past_records.shape),
        }
        tensors = {"query_key": query_key, "rotations": rotations, "past_records": past_records}
        tensors |= {"lengths": lengths, "new_lengths": new_lengths}
        params = structs.LSHBucketsStep(num_heads=num_heads, padding_multiple=padding_multiple)
        self._call("lsh_buckets_step", params, tensors | results)
        return tuple(results.values())

    def linear(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        scales: torch.Tensor | None,
        bias: torch.Tensor | None,
        activation: int,
    ) -> torch.Tensor:
        """As `linear_reference`; x may be float32 where the weight is bfloat16."""
        rows = x.reshape(-1, weight.shape[1])
        y = rows.new_empty((len(rows), weight.shape[0]))
        tensors = {"x": rows, "weight": weight, "scales": scales, "bias": bias, "y": y}
        given = {field: tensor for field, tensor in tensors.items() if tensor is not None}
        self._call("linear", structs.Linear(activation=activation), given)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def _step(
        self,
        name: str,
        params: Any,
        tensors: dict[str, torch.Tensor],
        past: dict[str, torch.Tensor],
        in_place: bool,
    ) -> tuple[torch.Tensor, ...]:
        first = next(iter(tensors.values()))
        output = torch.empty_like(first, memory_format=torch.contiguous_format)
        present = past
        if not in_place:
            present = {
                field: torch.empty_like(cache, memory_format=torch.contiguous_format)
                for field, cache in past.items()
            }
        tensors |= {f"past_{field}": cache for field, cache in past.items()}
        tensors |= {f"present_{field}": cache for field, cache in present.items()}
        self._call(name, params, tensors | {"output": output})
        return output, *present.values()

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
