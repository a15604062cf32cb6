"""Run an artifact with ONNX Runtime, on the CPU or a CUDA GPU."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact import MODEL_NAME, Manifest, check_files, read_manifest
from reformer_export.errors import (
    ArtifactError,
    InputError,
    MissingDependencyError,
    ReformerExportError,
    RuntimeUnavailableError,
)
from reformer_export.native import NativeLibrary, NativeMode, find_native_library
from reformer_export.runtimes.external_data import check_external_data
from reformer_export.runtimes.generation import Generation, GenerationOptions
from reformer_export.runtimes.inputs import IdsLike, prepare_inputs
from reformer_export.runtimes.source_config import SourceConfig, read_source_config
from reformer_export.runtimes.tokenizer import load_tokenizer
from reformer_export.spec import ModelSpec

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
PROVIDERS: Final = ("auto", "cpu", "cuda")
LOG_FATAL_ONLY: Final = 4
"""ONNX Runtime's severity: errors reach the user as exceptions, not as log lines too."""


class OnnxRuntime:
    """An artifact open in ONNX Runtime; implements `Runtime`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        provider: str = "auto",
        threads: int | None = None,
        native: NativeMode = "auto",
    ) -> None:
        """Check the artifact in the folder `path` and open it; see `reformer_export.load`."""
        self._folder = Path(path)
        self._manifest = read_manifest(self._folder)
        check_files(self._folder, self._manifest)
        self._config = read_source_config(self._folder, self.spec.vocab_size)
        self._notes: list[str] = []
        self._native: NativeLibrary | None = None
        self._session = self._open(provider, threads, native)
        _check_signature(self._folder / MODEL_NAME, self._session, self.spec)

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def spec(self) -> ModelSpec:
        return self._manifest.spec

    @property
    def config(self) -> SourceConfig:
        return self._config

    @property
    def max_length(self) -> int:
        return self.spec.max_length

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(self._session.get_providers())

    @property
    def native(self) -> NativeLibrary | None:
        return self._native

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def run(
        self, input_ids: IdsLike, attention_mask: IdsLike | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """One forward pass.

        Args:
            input_ids: token ids, integers [batch, sequence], or rows of unequal length, which are padded on
                the right and masked. Padding a row changes a Reformer's answer slightly: its last chunks
                attend around the end.
            attention_mask: 1 for a token, 0 for padding, of the shape of `input_ids`; None for all ones.

        Returns:
            The task's outputs by name (`spec.output_names`), float32 whatever the artifact's dtype, with
            the batch first.
        """
        ids, mask = prepare_inputs(self.spec, input_ids, attention_mask, self._config.pad_token_id)
        feeds = {"input_ids": ids, "attention_mask": mask}
        names = list(self.spec.output_names)
        try:
            if any(output.type == "tensor(bfloat16)" for output in self._session.get_outputs()):
                return _run_bfloat16(self._session, names, feeds)
            values = self._session.run(names, feeds)
        except Exception as error:
            raise _error_from_run(error, ids.shape) from error
        return {name: value.astype(np.float32, copy=False) for name, value in zip(names, values, strict=True)}

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Continue `prompt` (text or token ids); `options` are the fields of `GenerationOptions`.

        for piece in model.generate("In the beginning", max_new_tokens=100).pieces():
            print(piece, end="", flush=True)
        """
        if not isinstance(prompt, str):
            return Generation(self, prompt, GenerationOptions(**options))
        tokenizer = load_tokenizer(self._folder, self.spec.vocab_size)
        return Generation(self, tokenizer.encode(prompt), GenerationOptions(**options), tokenizer)

    def _open(self, provider: str, threads: int | None, native: NativeMode) -> Any:
        wanted = _choose_provider(provider)
        model = self._folder / MODEL_NAME
        if wanted == CUDA:
            session = open_session(model, CUDA, threads)
            if CUDA in session.get_providers():
                return session
            if provider == "cuda":
                raise RuntimeUnavailableError(
                    "provider: got cuda, but ONNX Runtime could not start CUDA here, expected a GPU, its "
                    "driver and CUDA's libraries; see `reformer-export doctor`, or use --provider cpu"
                )
            self._notes.append("CUDA could not be started, so the model runs on the CPU.")
        self._native = find_native_library(native)
        if self._manifest.dtype != "bfloat16":
            return open_session(model, CPU, threads, self._native)
        self._notes.append(
            "ONNX Runtime has no bfloat16 kernels for the CPU: the bfloat16 weights were widened to float32."
        )
        from reformer_export.runtimes.widen import widen_model

        with tempfile.TemporaryDirectory(prefix="reformer-export-", ignore_cleanup_errors=True) as folder:
            return open_session(widen_model(model, Path(folder)), CPU, threads, self._native)


def import_onnxruntime() -> Any:
    """The onnxruntime module; MissingDependencyError names the extras that bring it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"onnxruntime: got '{error}', expected the package; "
            "pip install 'reformer-export[cpu]', or 'reformer-export[gpu]' for CUDA"
        ) from error
    return onnxruntime


def open_session(
    model: Path, provider: str, threads: int | None = None, native: NativeLibrary | None = None
) -> Any:
    """An `onnxruntime.InferenceSession` of the file `model`; ArtifactError when it is refused.

    Args:
        model: an .onnx file; its external data, if any, must lie in its folder (ONNX Runtime checks it).
        provider: ONNX Runtime's name of an execution provider; the CPU is always added as the last one.
        threads: as in `reformer_export.load`.
        native: an operator library to register; its kernels then replace the function bodies.
    """
    if threads is not None and threads < 1:
        raise InputError(
            f"threads: got {threads}, expected an integer from 1 up; leave it out to use all cores"
        )
    onnxruntime = import_onnxruntime()
    check_external_data(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    # A pattern's block stands beside what the arena holds already: it doubled the memory of long sequences.
    options.enable_mem_pattern = False
    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    try:
        if native is not None:
            options.register_custom_ops_library(str(native.path))
        return onnxruntime.InferenceSession(
            str(model), options, providers=list(dict.fromkeys((provider, CPU)))
        )
    except Exception as error:
        raise _error_from_open(model, error) from error


def _choose_provider(provider: str) -> str:
    if provider not in PROVIDERS:
        raise InputError(
            f"provider: got {provider!r}, expected one of {', '.join(PROVIDERS)}; choose one of them"
        )
    available = import_onnxruntime().get_available_providers()
    if provider == "cuda" and CUDA not in available:
        raise RuntimeUnavailableError(
            "provider: got cuda, but the installed ONNX Runtime has no CUDA, expected the GPU package; "
            "pip uninstall onnxruntime, then pip install 'reformer-export[gpu]', or use --provider cpu"
        )
    return CUDA if provider != "cpu" and CUDA in available else CPU


def _error_from_open(model: Path, error: Exception) -> ReformerExportError:
    reason = str(error)
    if isinstance(error, MemoryError) or "bad_alloc" in reason or "allocate memory" in reason:
        return RuntimeUnavailableError(
            f"{model}: got no memory for its {model.stat().st_size} bytes, expected enough to open it; "
            "use a machine with more memory"
        )
    if "is not a registered function/op" in reason:
        return ArtifactError(
            f"{model}: ONNX Runtime refuses it: got '{reason}', expected each custom node to have a function "
            "body in the file or a registered library; export the checkpoint again with reformer-export"
        )
    return ArtifactError(
        f"{model}: ONNX Runtime refuses it: got '{reason}', expected a model it can open; "
        "export the checkpoint again, or install a newer ONNX Runtime"
    )


def _error_from_run(error: Exception, shape: tuple[int, ...]) -> ReformerExportError:
    reason = str(error)
    if isinstance(error, MemoryError) or "bad_alloc" in reason or "allocate memory" in reason:
        return InputError(
            f"input_ids: got {list(shape)} tokens, for which memory does not suffice, expected fewer; "
            "use a smaller batch or shorter rows"
        )
    return ArtifactError(
        f"model.onnx: ONNX Runtime failed on input_ids of shape {list(shape)}: got '{reason}', "
        "expected a result; check the artifact with `reformer-export verify`"
    )


def _check_signature(model: Path, session: Any, spec: ModelSpec) -> None:
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if inputs != {"input_ids", "attention_mask"} or not outputs.issuperset(spec.output_names):
        raise ArtifactError(
            f"{model}: got inputs {sorted(inputs)} and outputs {sorted(outputs)}, expected input_ids and "
            f"attention_mask, and {', '.join(spec.output_names)} for {spec.task}; export the checkpoint again"
        )


def _run_bfloat16(
    session: Any, names: list[str], feeds: dict[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.float32]]:
    """As `session.run`, for outputs in bfloat16, which numpy does not know."""
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return {
        name: _float32_from_ortvalue(value) for name, value in zip(names, binding.get_outputs(), strict=True)
    }


def _float32_from_ortvalue(value: Any) -> NDArray[np.float32]:
    """A numpy copy of an OrtValue in CPU memory; bfloat16 is the upper half of a float32."""
    if value.data_type() != "tensor(bfloat16)":
        copy: NDArray[np.float32] = value.numpy().astype(np.float32)
        return copy
    shape = tuple(value.shape())
    size = int(np.prod(shape))
    halves = np.ctypeslib.as_array((ctypes.c_uint16 * size).from_address(value.data_ptr()))
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
