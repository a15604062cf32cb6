"""What this machine can run, and what is missing; imports nothing heavier than ONNX Runtime."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.errors import InputError, ReformerExportError
from reformer_export.libraries.gpus import find_gpus
from reformer_export.libraries.operators import HOW_TO_GET_IT, find_native_library
from reformer_export.runtimes.ort import OnnxRuntime, import_onnxruntime, open_session
from reformer_export.runtimes.tensorrt.machine import TensorRTInstallation, describe_installation
from reformer_export.runtimes.tensorrt.packages import installed_version


@dataclass(frozen=True)
class Library:
    """A Python package: its `version` (None: not installed), what it is for and how to get it."""

    name: str
    version: str | None
    purpose: str
    install: str


@dataclass(frozen=True)
class CommandState:
    """A command of this program and the packages it still needs here."""

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactState:
    """Whether the given artifact or .onnx file can be run here; `problem` says why not."""

    path: str
    problem: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MachineReport:
    """What `doctor` found. `gpus` are the visible ones in words; `providers` are ONNX Runtime's; `native` is
    the operator library in words; `tensorrt` is what running engines takes."""

    python: str
    platform: str
    libraries: tuple[Library, ...]
    gpus: tuple[str, ...]
    providers: tuple[str, ...]
    native: str
    tensorrt: TensorRTInstallation
    commands: tuple[CommandState, ...]
    artifact: ArtifactState | None

    @property
    def can_run(self) -> bool:
        """Whether anything, and the artifact if one was given, can be run here."""
        return bool(self.providers) and (self.artifact is None or self.artifact.problem is None)


_LIBRARIES: Final = (
    ("numpy", ("numpy",), "all commands", "reformer-export"),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "run, generate, verify", "reformer-export[cpu]"),
    ("onnx", ("onnx",), "onnx, verify, inspect of an .onnx, bfloat16 on the CPU", "reformer-export[export]"),
    ("onnxscript", ("onnxscript",), "onnx", "reformer-export[export]"),
    ("onnx_graphsurgeon", ("onnx-graphsurgeon",), "verify --bisect and --report", "reformer-export[export]"),
    ("torch", ("torch",), "onnx, verify", "reformer-export[export]"),
    ("transformers", ("transformers",), "onnx, verify", "reformer-export[export]"),
    ("safetensors", ("safetensors",), "onnx, verify", "reformer-export[export]"),
    ("tokenizers", ("tokenizers",), "text with a tokenizer.json", "reformer-export[text]"),
    ("huggingface_hub", ("huggingface-hub",), "hub ids in place of folders", "huggingface-hub"),
    (
        "sentencepiece",
        ("sentencepiece",),
        "onnx of a checkpoint with a spiece.model",
        "reformer-export[export]",
    ),
)
"""Module, the distributions that bring it, purpose, what to install."""

_EXPORTING: Final = ("torch", "transformers", "safetensors", "onnx", "onnxscript", "onnxruntime")
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "onnx": _EXPORTING,
    "verify": _EXPORTING,
    "replay": ("numpy", "onnxruntime"),
    "engine": ("numpy",),
    "run": ("numpy", "onnxruntime"),
    "generate": ("numpy", "onnxruntime"),
    "bench": ("numpy", "onnxruntime"),
    "inspect": (),
    "doctor": (),
}


def inspect_machine(path: Path | None = None) -> MachineReport:
    """Look at this machine and, if `path` is given, try to run that artifact or open that .onnx file."""
    libraries = tuple(
        Library(module, installed_version(module, distributions), purpose, f"pip install '{install}'")
        for module, distributions, purpose, install in _LIBRARIES
    )
    installed = {library.name for library in libraries if library.version is not None}
    return MachineReport(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries=libraries,
        gpus=_list_gpus(),
        providers=_list_providers(),
        native=_describe_native(),
        tensorrt=describe_installation(),
        commands=tuple(
            CommandState(name, tuple(need for need in needs if need not in installed))
            for name, needs in _NEEDS.items()
        ),
        artifact=None if path is None else _try_artifact(path),
    )


def _describe_native() -> str:
    try:
        library = find_native_library("auto")
    except ReformerExportError as error:
        return f"unusable: {error}"
    return str(library) if library else f"missing (generic operators run instead): {HOW_TO_GET_IT}"


def _list_providers() -> tuple[str, ...]:
    try:
        return tuple(import_onnxruntime().get_available_providers())
    except ReformerExportError:
        return ()


def _list_gpus() -> tuple[str, ...]:
    try:
        return tuple(f"{gpu}, its driver knows CUDA {gpu.cuda_version}" for gpu in find_gpus())
    except ReformerExportError:
        return ()


def _try_artifact(path: Path) -> ArtifactState:
    if not path.exists():
        raise InputError(path, "no such file or folder", "an artifact or an .onnx", "check the path")
    try:
        if path.is_file():
            open_session(path)
            return ArtifactState(str(path), None)
        runtime = OnnxRuntime(path)
        runtime.run([[runtime.config.pad_token_id]])
        return ArtifactState(str(path), None, tuple(runtime.notes))
    except ReformerExportError as error:
        return ArtifactState(str(path), " ".join(str(error).split()))
