"""Who can be measured beside an artifact here, and what the others lack."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import InputError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.measure import missing_packages
from reformer_export.measure.contenders import Device, Name
from reformer_export.workflows.checkpoint_source import find_checkpoint

if TYPE_CHECKING:
    from reformer_export.workflows.bench import BenchRequest


class MissingError(Exception):
    """What a contender lacks here, and how to get it."""


def find_what_it_needs(
    name: Name, out: Path, manifest: Manifest, request: BenchRequest, device: Device
) -> str | None:
    """The folder of eager's checkpoint, None for the others; MissingError when `name` cannot run here."""
    missing = missing_packages(name)
    if missing:
        raise MissingError(f"it needs {' and '.join(missing)}; pip install 'reformer-export[export]'")
    if isinstance(manifest.spec, LucidrainsSpec):
        if name == "full-attention":
            raise MissingError("there is none of a model of reformer-pytorch")
        if importlib.util.find_spec("reformer_pytorch") is None:
            raise MissingError("it needs reformer-pytorch; pip install 'reformer-export[lucidrains]'")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise MissingError("the runtime uses a GPU and this torch cannot; install torch with CUDA")
    if name != "eager":
        return None
    try:
        return str(find_checkpoint(out, manifest, request.checkpoint))
    except InputError as error:
        if request.checkpoint is not None:
            raise
        raise MissingError(str(error)) from error
