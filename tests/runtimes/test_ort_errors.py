"""Each failure of CUDA is one line of four parts; the messages are ONNX Runtime's own, as users met them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import ArtifactError, InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.runtimes.ort_errors import ProviderError, error_from_open, error_from_run

CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, "
    "const char*, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError] "
)
AT = (
    " ; GPU=-1 ; hostname=c4327188 ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/"
    "cuda_execution_provider.cc ; line=336 ; expr=cudaSetDevice(info_.device_id); "
)
NODE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Slice node. "
    "Name:'Slice_12' Status Message: "
)
ABSENT = "cannot open shared object file: No such file or directory"
LOAD = "[ONNXRuntimeError] : 1 : FAIL : Failed to load library "
UNUSABLE = {
    "driver": (
        f"{CALL}CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version{AT}",
        "no NVIDIA driver, or one that is older than the installed CUDA libraries",
    ),
    "no GPU": (f"{CALL}CUDA failure 100: no CUDA-capable device is detected{AT}", "a driver and no GPU"),
    "cuBLAS": (
        f"{LOAD}/lib/libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: {ABSENT}",
        "no libcublasLt.so.12",
    ),
    "cuDNN": (
        f"{LOAD}libonnxruntime_providers_cuda.so with error: libcudnn.so.9: {ABSENT}",
        "no libcudnn.so.9",
    ),
    "CUDA_PATH": (
        "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:857 CUDA_PATH is set but CUDA wasnt "
        "able to be loaded. Please install the correct version of CUDA and cuDNN as mentioned in the GPU "
        "requirements page, make sure they're in the PATH, and that your GPU is supported.",
        "CUDA's libraries, which cannot be loaded (CUDA_PATH is set)",
    ),
    "part of cuDNN": (
        "CUDNN failure 1003: CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED ; GPU=0 ; hostname=x ; expr=f();",
        "CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED from one of CUDA's libraries",
    ),
    "kernel image": (
        f"{NODE}CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution on the "
        "device",
        "no code for this GPU in ONNX Runtime's CUDA provider or in a library that it uses",
    ),
    "cuBLAS fails": (
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=x ; expr=f();",
        "'CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED'",
    ),
    "a launch fails": (
        f"{NODE}CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered",
        "'CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered'",
    ),
    "another": (f"{CALL}CUDA failure 999: unknown error{AT}", "'CUDA failure 999: unknown error'"),
}
NO_MEMORY = {
    "arena": f"{NODE}/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::"
    "BFCArena::AllocateRawInternal(size_t, bool, Stream*) Failed to allocate memory for requested buffer of "
    "size 4294967296",
    "limit": f"{NODE}BFCArena::AllocateRawInternal: Available memory of 536870912 is smaller than requested "
    "bytes of 1073741824",
    "CUDA": f"{CALL}CUDA failure 2: out of memory{AT}",
    "cuBLAS": "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=x ; expr=f();",
}


def assert_one_line(error: ReformerExportError) -> None:
    assert "\n" not in str(error)
    assert all((error.what, error.got, error.expected, error.fix))


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_machine_whose_cuda_does_not_work(name: str, tmp_path: Path) -> None:
    message, reason = UNUSABLE[name]
    opened = error_from_open(tmp_path / "model.onnx", RuntimeError(message))
    ran = error_from_run(RuntimeError(message), (1, 64), "cuda")
    for error in (opened, ran):
        assert isinstance(error, ProviderError)
        assert_one_line(error)
        assert (error.what, error.got, error.reason) == ("provider", f"cuda, but {reason}", reason)
        assert error.fix.endswith(', or use `provider="cpu"`')
        assert error.exit_status == 2


@pytest.mark.parametrize("name", NO_MEMORY)
def test_memory_that_does_not_suffice(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(bytes(1234))
    opened = error_from_open(model, RuntimeError(NO_MEMORY[name]))
    assert isinstance(opened, RuntimeUnavailableError)
    assert not isinstance(opened, ProviderError)
    assert "for its 1234 bytes" in opened.got
    ran = error_from_run(RuntimeError(NO_MEMORY[name]), (4, 65536), "cuda")
    assert isinstance(ran, InputError)
    assert ran.got == "[4, 65536] tokens, for which the GPU's memory does not suffice"
    on_cpu = error_from_run(MemoryError(), (4, 5), "cpu")
    assert on_cpu.got == "[4, 5] tokens, for which memory does not suffice"
    for error in (opened, ran, on_cpu):
        assert_one_line(error)


def test_what_is_not_cuda_s_fault_is_the_file_s(tmp_path: Path) -> None:
    message = f"{NODE}indices element out of data bounds,\nidx=200 must be within [-10,9]"
    ran = error_from_run(RuntimeError(message), (1, 1), "cuda")
    assert isinstance(ran, ArtifactError)
    assert "ONNX Runtime failed on input_ids of shape [1, 1]" in str(ran)
    refusal = f"{LOAD}/x/libreformer_onnxruntime.so with error: libgomp.so.1: {ABSENT}"
    opened = error_from_open(tmp_path / "model.onnx", RuntimeError(refusal))
    assert isinstance(opened, ArtifactError), "our own library is not CUDA's"
    for error in (ran, opened):
        assert_one_line(error)
