"""Run an artifact with ONNX Runtime, on the CPU or a CUDA GPU."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.contract import INPUT_NAMES, NUM_HASHES_INPUT
from reformer_export.errors import (
    ArtifactError,
    InputError,
    MissingDependencyError,
    ReformerExportError,
    RuntimeUnavailableError,
)
from reformer_export.libraries.operators import MAX_CUDA_HEAD_SIZE, NativeLibrary, find_native_library
from reformer_export.runtimes.base import Runtime
from reformer_export.runtimes.inputs import IdsLike, prepare_inputs
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.onnx_structure import check_onnx_structure
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.upcast import run_bfloat16, upcast_model
from reformer_export.spec import ModelSpec

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
LOG_FATAL_ONLY: Final = 4
"""ONNX Runtime's severity: errors reach the user as exceptions, not as log lines too."""


@dataclass(frozen=True)
class Placement:
    """Where ONNX Runtime runs a graph: its name of an execution provider, the CPU threads an operator may use
    (None: all cores), and the operator library whose kernels replace the function bodies."""

    provider: str = CPU
    threads: int | None = None
    library: NativeLibrary | None = None


class OnnxRuntime(Runtime):
    """An artifact open in ONNX Runtime."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: RuntimeOptions | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        """Check the artifact in the folder `path` and open it; see `reformer_export.load`.

        `manifest`: that of an artifact whose manifest.json is still to be written; None to read it.
        """
        options = options or RuntimeOptions()
        super().__init__(path, options, manifest)
        self._placement = Placement()
        session = self._open(options)
        _check_signature(self.folder / MODEL_NAME, session, self.manifest)
        self._providers = tuple(session.get_providers())
        self._session: Any = session

    @property
    def providers(self) -> tuple[str, ...]:
        return self._providers

    @property
    def native(self) -> NativeLibrary | None:
        return self._placement.library

    @property
    def description(self) -> str:
        kernels = "function bodies" if self.native is None else f"native kernels {self.native}"
        choice = self.manifest.runtime_num_hashes
        rounds = "" if choice is None else f", {self.num_hashes} of {choice.max_hashes} hashes"
        return f"ONNX Runtime, {self.providers[0].removesuffix('ExecutionProvider')}, {kernels}{rounds}"

    @property
    def placement(self) -> Placement:
        """Where the graph runs, for other graphs that shall run there too."""
        return self._placement

    def close(self) -> None:
        self._session = None

    def run(
        self,
        input_ids: IdsLike,
        attention_mask: IdsLike | None = None,
        num_hashes: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """One forward pass.

        Args:
            input_ids: token ids, integers [batch, sequence], or rows of unequal length, which are padded on
                the right and masked. Padding a row changes a Reformer's answer slightly: its last chunks
                attend around the end.
            attention_mask: 1 for a token, 0 for padding, of the shape of `input_ids`; None for all ones.
            num_hashes: rounds of hashing, from 1 to the manifest's `runtime_num_hashes.max_hashes`: fewer
                are faster and attend worse. None for those the artifact was opened with. Only artifacts
                exported with --max-hashes take it.

        Returns:
            The task's outputs by name (`spec.output_names`), float32 whatever the artifact's dtype, with
            the batch first.
        """
        session = self._session
        if session is None:
            raise InputError(self.folder, "a closed model", "an open one", "load it again")
        rounds = choose_num_hashes(self.manifest, num_hashes, self.num_hashes)
        ids, mask = prepare_inputs(self.spec, input_ids, attention_mask, self.config.pad_token_id)
        feeds = {"input_ids": ids, "attention_mask": mask}
        if rounds is not None:
            feeds[NUM_HASHES_INPUT] = np.array([rounds], np.int64)
        names = list(self.spec.output_names)
        try:
            if any(output.type == "tensor(bfloat16)" for output in session.get_outputs()):
                return run_bfloat16(session, names, feeds)
            values = session.run(names, feeds)
        except Exception as error:
            raise _error_from_run(error, ids.shape) from error
        return {name: value.astype(np.float32, copy=False) for name, value in zip(names, values, strict=True)}

    def _open(self, options: RuntimeOptions) -> Any:
        model = self.folder / MODEL_NAME
        if _choose_provider(options.provider) == CUDA:
            session = self._open_on_cuda(model, options)
            if session is not None and CUDA in session.get_providers():
                return session
            if options.provider == "cuda":
                got, expected = (
                    "ONNX Runtime could not start CUDA here",
                    "a GPU, its driver and CUDA's libraries",
                )
                raise _no_cuda(got, expected, "see `reformer-export doctor`")
            if session is not None:
                self._notes = ["CUDA could not be started, so the model runs on the CPU."]
        self._placement = Placement(CPU, options.threads, find_native_library(options.native))
        if self.manifest.dtype != "bfloat16":
            return open_session(model, self._placement)
        self._notes.append(
            "ONNX Runtime has no bfloat16 kernels for the CPU: the bfloat16 weights were upcast to float32."
        )
        with tempfile.TemporaryDirectory(prefix="reformer-export-", ignore_cleanup_errors=True) as folder:
            return open_session(upcast_model(model, Path(folder)), self._placement)

    def _open_on_cuda(self, model: Path, options: RuntimeOptions) -> Any:
        """A session on CUDA, with the library's kernels where it has them, else on the function bodies.

        None when "on" asks for kernels, CUDA has none and `provider` leaves it to us: then on to the CPU.
        """
        library = find_native_library(options.native)
        problem = None if library is None else find_cuda_problem(library, self.spec)
        if library is not None and problem is None:
            self._placement = Placement(CUDA, options.threads, library)
            try:
                return open_session(model, self._placement)
            except ReformerExportError as error:
                problem = str(error)  # such as a GPU that the library has no code for
        if problem is not None and options.native == "on":
            if options.provider == "cuda":
                got = f"no kernels for CUDA ({problem})"
                fix = 'build it with CUDA for this GPU, or use `native="auto"` or `provider="cpu"`'
                raise RuntimeUnavailableError("native", got, "a library that has them", fix)
            self._notes.append(f"The model runs on the CPU, for which there are native kernels: {problem}.")
            return None
        if problem is not None:
            self._notes.append(f"Generic operators run on CUDA in place of the native kernels: {problem}.")
        self._placement = Placement(CUDA, options.threads)
        return open_session(model, self._placement)


def find_cuda_problem(library: NativeLibrary, spec: ModelSpec) -> str | None:
    """Why the library's CUDA kernels cannot run the model, whatever the GPU; None when they can."""
    if library.cuda_architectures is None:
        return "the native library was built without CUDA"
    if spec.head_size > MAX_CUDA_HEAD_SIZE:
        return f"heads of {spec.head_size} elements, where they take {MAX_CUDA_HEAD_SIZE}"
    return None


def import_onnxruntime() -> Any:
    """The onnxruntime module; MissingDependencyError names the extras that bring it."""
    try:
        import onnxruntime
    except ImportError as error:
        fix = "pip install 'reformer-export[cpu]', or 'reformer-export[gpu]' for CUDA"
        raise MissingDependencyError("onnxruntime", f"'{error}'", "the package", fix) from error
    return onnxruntime


def open_session(model: Path, placement: Placement | None = None, profile: Path | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of the file `model`; ArtifactError when it is refused.

    Args:
        model: an .onnx file; its external data, if any, must lie in its folder (ONNX Runtime checks it).
        placement: where to run it; the CPU is always added as the last provider.
        profile: what the name of the profile begins with that the session writes; None for no profile.
    """
    placement = placement or Placement()
    onnxruntime = import_onnxruntime()
    check_onnx_structure(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    options.intra_op_num_threads = placement.threads or 0
    # A pattern's block stands beside what the arena holds already: it doubled the memory of long sequences.
    options.enable_mem_pattern = False
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if placement.provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    try:
        if placement.library is not None:
            options.register_custom_ops_library(str(placement.library.path))
        providers = list(dict.fromkeys((placement.provider, CPU)))
        return onnxruntime.InferenceSession(str(model), options, providers=providers)
    except Exception as error:
        raise _error_from_open(model, error) from error


def _choose_provider(provider: str) -> str:
    available = import_onnxruntime().get_available_providers()
    if provider == "cuda" and CUDA not in available:
        fix = "pip uninstall onnxruntime, then pip install 'reformer-export[gpu]'"
        raise _no_cuda("the installed ONNX Runtime has no CUDA", "the GPU package", fix)
    return CUDA if provider != "cpu" and CUDA in available else CPU


def _no_cuda(got: str, expected: str, fix: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        "provider", f"cuda, but {got}", expected, f'{fix}, or use `provider="cpu"`'
    )


def _is_want_of_memory(error: Exception) -> bool:
    words = ("bad_alloc", "allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _error_from_open(model: Path, error: Exception) -> ReformerExportError:
    if _is_want_of_memory(error):
        got = f"no memory for its {model.stat().st_size} bytes"
        return RuntimeUnavailableError(model, got, "enough to open it", "use a machine with more memory")
    expected, fix = "a model it can open", "export the checkpoint again, or install a newer ONNX Runtime"
    if "is not a registered function/op" in str(error):
        expected = "each custom node to have a function body in the file or a registered library"
        fix = "export the checkpoint again with reformer-export"
    return ArtifactError(f"{model}: ONNX Runtime refuses it", f"'{error}'", expected, fix)


def _error_from_run(error: Exception, shape: tuple[int, ...]) -> ReformerExportError:
    if _is_want_of_memory(error):
        got = f"{list(shape)} tokens, for which memory does not suffice"
        return InputError("input_ids", got, "fewer", "use a smaller batch or shorter rows")
    what = f"model.onnx: ONNX Runtime failed on input_ids of shape {list(shape)}"
    fix = "check the artifact with `reformer-export verify`"
    return ArtifactError(what, f"'{error}'", "a result", fix)


def _check_signature(model: Path, session: Any, manifest: Manifest) -> None:
    spec = manifest.spec
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if inputs != set(INPUT_NAMES) or not outputs.issuperset(spec.output_names):
        got = f"inputs {sorted(inputs)} and outputs {sorted(outputs)}"
        expected = f"input_ids and attention_mask, and {', '.join(spec.output_names)} for {spec.task}"
        raise ArtifactError(model, got, expected, "export the checkpoint again")
    found = [(value.name, value.type, value.shape) for value in session.get_overridable_initializers()]
    if manifest.runtime_num_hashes is not None and (NUM_HASHES_INPUT, "tensor(int64)", [1]) not in found:
        got = f"{[name for name, _, _ in found]} as inputs with a default"
        expected = f"{NUM_HASHES_INPUT} int64 [1] as the manifest says"
        raise ArtifactError(model, got, expected, "export the checkpoint again")
