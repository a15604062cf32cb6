"""Who can be measured beside an artifact here, and what the others lack."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import InputError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.measure import Setup, missing_packages
from reformer_export.measure.contenders import Device, Name
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.ort_session import CPU
from reformer_export.workflows.checkpoint_source import find_checkpoint

if TYPE_CHECKING:
    from reformer_export.workflows.bench import BenchRequest


class _MissingError(Exception):
    """What a contender lacks here, and how to get it."""


def device_of(runtime: Runtime) -> Device:
    """Where the runtime computes, and those in torch beside it shall."""
    return "cpu" if runtime.providers[0] == CPU else "cuda"


def choose_setups(
    names: Iterable[Name], out: Path, manifest: Manifest, request: BenchRequest, device: Device
) -> tuple[list[Setup], list[str]]:
    """The artifact, whose files were checked before, and whoever of `names` can run here; a note for each of
    the others."""
    runtime = dataclasses.replace(request.runtime, check=False)
    setups, notes = [Setup("artifact", str(out), runtime, device)], []
    for name in names:
        try:
            checkpoint = _find_what_it_needs(name, out, manifest, request, device)
        except _MissingError as missing:
            notes.append(f"{name}: left out, {missing}")
        else:
            setups.append(Setup(name, str(out), runtime, device, checkpoint))
    return setups, notes


def _find_what_it_needs(
    name: Name, out: Path, manifest: Manifest, request: BenchRequest, device: Device
) -> str | None:
    """The folder of eager's checkpoint, None for the others; _MissingError when `name` cannot run here."""
    missing = missing_packages(name)
    if missing:
        raise _MissingError(f"it needs {' and '.join(missing)}; pip install 'reformer-export[export]'")
    if manifest.is_custom:
        raise _MissingError("the module is not in the artifact")
    if isinstance(manifest.spec, LucidrainsSpec):
        if name == "full-attention":
            raise _MissingError("there is none of a model of reformer-pytorch")
        if importlib.util.find_spec("reformer_pytorch") is None:
            raise _MissingError("it needs reformer-pytorch; pip install 'reformer-export[lucidrains]'")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise _MissingError("the runtime uses a GPU and this torch cannot; install torch with CUDA")
    if name != "eager":
        return None
    try:
        return str(find_checkpoint(out, manifest, request.checkpoint))
    except InputError as error:
        if request.checkpoint is not None:
            raise
        raise _MissingError(str(error)) from error
