"""What is measured: the artifact in a runtime, transformers eager, and full attention; each runs ids once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import read_manifest
from reformer_export.runtimes import load
from reformer_export.spec import DType

Name = Literal["artifact", "eager", "full-attention"]
Device = Literal["cpu", "cuda"]
Run = Callable[[NDArray[np.int64]], object]
"""int64 [B, L] token ids, nothing padded -> whatever the pass gives, ready on the CPU."""

AGAINST: Final[tuple[Name, ...]] = ("eager", "full-attention")
_PACKAGES: Final[dict[Name, tuple[str, ...]]] = {
    "artifact": (),
    "eager": ("torch", "transformers"),
    "full-attention": ("torch",),
}


@dataclass(frozen=True)
class Setup:
    """All that opens a contender, in JSON values: a process of its own opens it from them too.

    `out` is the artifact's folder; `load_options` are `reformer_export.load`'s; `device` and `threads` are
    for those in torch; `checkpoint` is eager's folder.
    """

    name: Name
    out: str
    load_options: dict[str, Any]
    device: Device = "cpu"
    threads: int | None = None
    checkpoint: str | None = None

    @property
    def dtype(self) -> DType:
        """Of the arithmetic: the artifact's, but float32 for those in torch on a CPU, their fastest."""
        if self.name != "artifact" and self.device == "cpu":
            return "float32"
        return read_manifest(Path(self.out)).dtype


def missing_packages(name: Name) -> list[str]:
    """The packages that this contender needs and this Python does not have."""
    return [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]


def open_contender(setup: Setup) -> Run:
    """Load the model; what it holds is freed with the function that is returned."""
    if setup.name == "artifact":
        runtime = load(setup.out, **setup.load_options)
        return runtime.run
    opened = _open_eager(setup) if setup.name == "eager" else _open_full_attention(setup)
    return _on_device(opened, setup)


def _open_eager(setup: Setup) -> Callable[[Any], Any]:
    """Unpatched transformers eager at its fastest: no cache, and no attention mask (it would be all ones;
    without one, eager skips its gathers)."""
    from reformer_export.modeling import TORCH_DTYPES
    from reformer_export.reference.eager import WITHOUT_CACHE, open_eager

    assert setup.checkpoint is not None
    manifest = read_manifest(Path(setup.out))
    spec, eager = manifest.spec, open_eager(Path(setup.checkpoint), manifest)
    model = eager.model.to(setup.device, TORCH_DTYPES[setup.dtype])
    options: dict[str, Any] = {} if spec.task in WITHOUT_CACHE else {"use_cache": False}
    options["num_hashes"] = setup.load_options.get("num_hashes")  # None: those of `spec`
    return lambda ids: [model(ids, return_dict=True, **options)[name] for name in spec.output_names]


def _open_full_attention(setup: Setup) -> Callable[[Any], Any]:
    import torch

    from reformer_export.reference.full_attention import build_full_attention

    spec = read_manifest(Path(setup.out)).spec
    model = build_full_attention(spec, setup.dtype).to(setup.device)
    return lambda ids: model(ids, torch.ones_like(ids))


def _on_device(model: Callable[[Any], Any], setup: Setup) -> Run:
    """A run from ids on the CPU to outputs on the CPU, as the runtimes do it."""
    import torch

    if setup.threads is not None:
        torch.set_num_threads(setup.threads)

    def run(input_ids: NDArray[np.int64]) -> list[Any]:
        with torch.inference_mode():
            outputs = model(torch.from_numpy(input_ids).to(setup.device))
            return [output.float().cpu().numpy() for output in outputs]

    return run
