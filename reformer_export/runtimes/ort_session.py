"""Open a graph in ONNX Runtime: on which provider, with which options, with which kernels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.files import require_utf8
from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import ArtifactError, MissingDependencyError
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.cuda_provider import check_cuda_libraries
from reformer_export.runtimes.float32_products import fuse_dense_layers
from reformer_export.runtimes.forks import keep_in_children
from reformer_export.runtimes.onnx_structure import check_onnx_structure
from reformer_export.runtimes.options import Device
from reformer_export.runtimes.ort_errors import ProviderError, error_from_open

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_EXTERNAL_FOLDER: Final = "session.model_external_initializers_file_folder_path"
LOG_FATAL_ONLY: Final = 4
"""ONNX Runtime's severity: errors reach the user as exceptions, not as log lines too."""


@dataclass(frozen=True)
class Placement:
    """Where ONNX Runtime runs a graph: its name of an execution provider, the CPU threads an operator may use
    (None: all cores), the operator library whose kernels replace the function bodies, and whether CUDA's
    products of float32 round what they multiply to TF32, and the index of CUDA's GPU."""

    provider: str = CPU
    threads: int | None = None
    library: NativeLibrary | None = None
    tf32: bool = False
    device_id: int = 0

    @property
    def device(self) -> Device:
        """Where the graph's values lie."""
        return "cuda" if self.provider == CUDA else "cpu"

    @property
    def description(self) -> str:
        """What executes the graph, in a few words for people."""
        provider = self.provider.removesuffix("ExecutionProvider") + ", TF32" * self.tf32
        kernels = "function bodies" if self.library is None else f"native kernels {self.library}"
        return f"ONNX Runtime, {provider}, {kernels}"

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """ONNX Runtime's argument of that name; the CPU takes what the provider has no kernel for.

        The CUDA provider multiplies in TF32 unless it is told not to: one hash in a thousand would then fall
        into another bucket.
        """
        options = {"use_tf32": str(int(self.tf32))} if self.provider == CUDA else {}
        if self.device_id:
            options["device_id"] = str(self.device_id)
        return list({self.provider: (self.provider, options), CPU: (CPU, {})}.values())


def import_onnxruntime() -> Any:
    """The onnxruntime module; MissingDependencyError names the extras that bring it."""
    # Importing 1.29 and later would write under HOME and look up a host; nothing stops that afterwards.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        fix = "pip install 'reformer-export[cpu]', or 'reformer-export[gpu]' for CUDA"
        raise MissingDependencyError("onnxruntime", f"'{error}'", "the package", fix) from error
    return onnxruntime


def choose_provider(provider: str) -> str:
    """ONNX Runtime's name for `RuntimeOptions.provider`; RuntimeUnavailableError where it has no CUDA."""
    available = import_onnxruntime().get_available_providers()
    if provider == "cuda" and CUDA not in available:
        fix = "pip uninstall onnxruntime, then pip install 'reformer-export[gpu]'"
        raise ProviderError("the installed ONNX Runtime has no CUDA", "the GPU package", fix)
    return CUDA if provider != "cpu" and CUDA in available else CPU


def fuses_dense_layers(name: str) -> bool:
    """Whether the library multiplies small float32 weights of an artifact's graph `name`: not of decode.onnx,
    most of whose calls have one row."""
    return name != DECODE_NAME


def open_session(
    model: Path,
    placement: Placement | None = None,
    profile: Path | None = None,
    reuses_memory: bool = True,
    fuses_dense: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession` of the file `model`.

    Args:
        model: an .onnx file; its external data, if any, must lie in its folder (ONNX Runtime checks it).
        placement: where to run it; the CPU is always added as the last provider.
        profile: what the name of the profile begins with that the session writes; None for no profile.
        reuses_memory: whether a value may lie where one did that is no longer needed.
        fuses_dense: whether the operator library may multiply small float32 weights, where it has products
            of float32 for this processor: faster for many rows, and not for one.

    Raises:
        ArtifactError: the model is refused, or its path is one that ONNX Runtime does not take.
        ProviderError: CUDA does not work here.
        RuntimeUnavailableError: memory does not suffice.
    """
    require_utf8(model)
    check_onnx_structure(model)
    placement = placement or Placement()
    if placement.provider == CUDA:
        check_cuda_libraries(import_onnxruntime())
    library = placement.library
    has_products = library is not None and library.float32_products is not None
    fused = fuse_dense_layers(model) if fuses_dense and has_products and placement.provider == CPU else None
    if fused is not None:
        try:
            return _open(model, placement, profile, reuses_memory, fused)
        except ArtifactError as error:  # Linear takes less: no operands at odd addresses, for one
            log_fact("opened as the file has it, since with fused dense layers", error)
    return _open(model, placement, profile, reuses_memory)


def open_graph_bytes(model: bytes, placement: Placement) -> Any:
    """A session of a graph of our own, where another session runs already; errors as of `open_session`."""
    return _open(model, placement)


def _open(
    model: Path | bytes,
    placement: Placement,
    profile: Path | None = None,
    reuses_memory: bool = True,
    fused: bytes | None = None,
) -> Any:
    """`fused`: the graph to open in place of the file `model`'s."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    options.intra_op_num_threads = placement.threads or 0
    # A pattern's block stands beside what the arena holds already: it doubled the memory of long sequences.
    options.enable_mem_pattern = False
    options.enable_mem_reuse = reuses_memory
    # Products with int4 weights in float32: by default it rounds what they are multiplied by to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    log_fact("ONNX Runtime", f"{onnxruntime.__version__}, {onnxruntime.__file__}")
    log_fact("providers and their options", placement.providers)
    log_fact("threads of an operator", placement.threads or "all cores")
    log_fact("operator library", "none" if placement.library is None else placement.library.path)
    try:
        if placement.library is not None:
            if placement.provider != CPU:  # Linear's kernels are the CPU's
                options.add_session_config_entry("reformer.linear", "0")
            options.register_custom_ops_library(str(placement.library.path))
        source = fused or (model if isinstance(model, bytes) else str(model))
        if fused is not None and isinstance(model, Path):
            options.add_session_config_entry(_EXTERNAL_FOLDER, str(model.parent))
        # Falling back would print to standard output, and run on the CPU what was to run on the GPU.
        with log_phase(f"opening {'a graph of our own' if isinstance(model, bytes) else model}"):
            session = onnxruntime.InferenceSession(
                source, options, providers=placement.providers, enable_fallback=0
            )
    except Exception as error:
        raise error_from_open(model if isinstance(model, Path) else None, error) from error
    keep_in_children(session)
    return session


def check_signature(model: Path, session: Any, manifest: Manifest) -> None:
    """ArtifactError unless the session of the file `model` has the inputs and outputs of `manifest`."""
    known = [each.name for each in manifest.inputs]
    given = [each.name for each in manifest.outputs]
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name for value in session.get_outputs()}
    if inputs != set(known) or not outputs.issuperset(given):
        got = f"inputs {sorted(inputs)} and outputs {sorted(outputs)}"
        expected = f"{' and '.join(known)}, and {', '.join(given)} for {manifest.spec.task}"
        raise ArtifactError(model, got, expected, "export the checkpoint again")
    found = [(value.name, value.type, value.shape) for value in session.get_overridable_initializers()]
    if manifest.runtime_num_hashes is not None and (NUM_HASHES_INPUT, "tensor(int64)", [1]) not in found:
        got = f"{[name for name, _, _ in found]} as inputs with a default"
        expected = f"{NUM_HASHES_INPUT} int64 [1] as the manifest says"
        raise ArtifactError(model, got, expected, "export the checkpoint again")
