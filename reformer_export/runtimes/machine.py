"""What this machine can run, and what is missing; imports nothing heavier than ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.errors import InputError, ReformerExportError
from reformer_export.libraries.gpus import Gpu, find_gpus
from reformer_export.libraries.packages import COMPARING, EXPORTING, SERVING
from reformer_export.libraries.state import LibraryState, describe_libraries
from reformer_export.runtimes.cuda_provider import describe_missing, find_missing_libraries
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.runtimes.ort_session import CUDA, import_onnxruntime, open_session
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
    """A command of this program and the packages, and whatever else, it still needs here."""

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
    """What `doctor` found. `gpus` are the visible ones in words; `providers` are ONNX Runtime's, and
    `cuda_problem` is what the CUDA one lacks; `native` are this package's libraries; `tensorrt` is what
    running engines takes."""

    python: str
    platform: str
    libraries: tuple[Library, ...]
    gpus: tuple[str, ...]
    providers: tuple[str, ...]
    cuda_problem: str
    native: tuple[LibraryState, ...]
    tensorrt: TensorRTInstallation
    commands: tuple[CommandState, ...]
    artifact: ArtifactState | None

    @property
    def can_run(self) -> bool:
        """Whether anything, and the artifact if one was given, can be run here."""
        return bool(self.providers) and (self.artifact is None or self.artifact.problem is None)


_ONE_MODULE: Final = ("onnxruntime", "onnxruntime-gpu")
"""The distributions of which only one can be used: the one that was installed last."""

_LIBRARIES: Final = (
    ("numpy", ("numpy",), "all commands", "reformer-export"),
    ("onnxruntime", _ONE_MODULE, "run, generate, verify", "reformer-export[cpu]"),
    ("onnx", ("onnx",), "onnx, verify, inspect of an .onnx, bfloat16 on the CPU", "reformer-export[export]"),
    ("onnxscript", ("onnxscript",), "onnx", "reformer-export[export]"),
    ("onnx_graphsurgeon", ("onnx-graphsurgeon",), "onnx, verify", "reformer-export[export]"),
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
    *((module, (module.replace("_", "-"),), "serve", "reformer-export[serve]") for module in SERVING),
)
"""Module, the distributions that bring it, purpose, what to install."""

_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "onnx": tuple(dict.fromkeys((*EXPORTING, *COMPARING))),
    "verify": COMPARING,
    "replay": ("numpy", "onnxruntime"),
    "engine": ("numpy",),
    "run": ("numpy", "onnxruntime"),
    "generate": ("numpy", "onnxruntime"),
    "serve": ("numpy", "onnxruntime", *SERVING),
    "bench": ("numpy", "onnxruntime"),
    "inspect": (),
    "triton": ("numpy",),
    "build-library": (),
    "doctor": (),
}


def inspect_machine(path: Path | None = None) -> MachineReport:
    """Look at this machine and, if `path` is given, try to run that artifact or open that .onnx file."""
    libraries = tuple(
        Library(module, installed_version(module, distributions), purpose, f"pip install '{install}'")
        for module, distributions, purpose, install in _LIBRARIES
    )
    installed = {library.name for library in libraries if library.version is not None}
    gpus, providers, tensorrt = _list_gpus(), _list_providers(), describe_installation()
    missing = {name: tuple(need for need in needs if need not in installed) for name, needs in _NEEDS.items()}
    missing["engine"] += tensorrt.missing_to_build
    return MachineReport(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries=libraries,
        gpus=tuple(f"{gpu}, its driver knows CUDA {gpu.cuda_version}" for gpu in gpus),
        providers=providers,
        cuda_problem=_describe_cuda_problem(providers),
        native=describe_libraries(gpus),
        tensorrt=tensorrt,
        commands=tuple(CommandState(name, needs) for name, needs in missing.items()),
        artifact=None if path is None else _try_artifact(path),
    )


def _list_providers() -> tuple[str, ...]:
    try:
        return tuple(import_onnxruntime().get_available_providers())
    except ReformerExportError:
        return ()


def _describe_cuda_problem(providers: tuple[str, ...]) -> str:
    if CUDA in providers:
        return describe_missing(find_missing_libraries(import_onnxruntime()))
    if all(map(_is_installed, _ONE_MODULE)):
        fix = f"pip uninstall {' '.join(_ONE_MODULE)}, then pip install 'reformer-export[gpu]'"
        return f"hidden: {' and '.join(_ONE_MODULE)} are installed, and are one module; {fix}"
    return ""


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _list_gpus() -> tuple[Gpu, ...]:
    try:
        return find_gpus()
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
