"""What is measured: the artifact in a runtime, eager, and full attention; each runs ids once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import read_manifest
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.spec import DType, ModelSpec

Name = Literal["artifact", "eager", "full-attention"]
Device = Literal["cpu", "cuda"]
Run = Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]
"""int64 [B, L] token ids or float32 [B, L, hidden_size] vectors, nothing padded -> the outputs by name, on
the CPU."""

AGAINST: Final[tuple[Name, ...]] = ("eager", "full-attention")
_PACKAGES: Final[dict[Name, tuple[str, ...]]] = {
    "artifact": (),
    "eager": ("torch", "transformers"),
    "full-attention": ("torch",),
}


@dataclass(frozen=True)
class Setup:
    """All that opens a contender, in this process or in one of its own.

    `out` is the artifact's folder; `options` say how it runs, and `threads` and `num_hashes` of them are for
    those in torch too, which run on `device`; `checkpoint` is eager's folder.
    """

    name: Name
    out: str
    options: RuntimeOptions
    device: Device = "cpu"
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


def silence_eager(setups: Sequence[Setup]) -> AbstractContextManager[None]:
    """A block in which eager, if it is among `setups`, prints nothing; entered outside of what is timed."""
    if all(setup.name != "eager" for setup in setups):
        return nullcontext()
    from reformer_export.checkpoints.quiet import silence_transformers

    return silence_transformers()


def random_ids(vocab_size: int, batch: int, length: int) -> NDArray[np.int64]:
    """Seeded token ids int64 [batch, length]."""
    return np.random.default_rng(0).integers(0, vocab_size, (batch, length), dtype=np.int64)


def random_inputs(spec: ModelSpec, batch: int, length: int) -> NDArray[Any]:
    """What the model takes: seeded token ids int64 [batch, length], or vectors of normal numbers float32
    [batch, length, hidden_size]."""
    if not spec.takes_vectors:
        return random_ids(spec.vocab_size, batch, length)
    return np.random.default_rng(0).standard_normal((batch, length, spec.hidden_size), np.float32)


def open_contender(setup: Setup) -> Run:
    """Load the model; what it holds is freed with the function that is returned."""
    if setup.name == "artifact":
        return load(setup.out, setup.options).run
    import torch

    from reformer_export.modeling import TORCH_DTYPES

    spec = read_manifest(Path(setup.out)).spec
    set_up_torch(setup)
    model = _open_eager(setup) if setup.name == "eager" else _open_full_attention(setup)

    dtype = TORCH_DTYPES[setup.dtype] if spec.takes_vectors else None

    def run(inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            outputs = model(torch.from_numpy(inputs).to(setup.device, dtype))
            arrays = [output.float().cpu().numpy() for output in outputs]
        return dict(zip(spec.output_names, arrays, strict=True))

    return run


def set_up_torch(setup: Setup) -> None:
    """Let torch use the GPU and the threads of `setup`."""
    import torch

    if setup.device == "cuda" and setup.options.device_id is not None:
        torch.cuda.set_device(setup.options.device_id)
    if setup.options.threads is not None:
        torch.set_num_threads(setup.options.threads)


def load_eager(setup: Setup) -> Any:
    """Unpatched eager for the artifact of `setup`, on its device and in its dtype."""
    from reformer_export.modeling import TORCH_DTYPES
    from reformer_export.reference.eager import open_eager

    assert setup.checkpoint is not None
    eager = open_eager(Path(setup.checkpoint), read_manifest(Path(setup.out)))
    return eager.model.to(setup.device, TORCH_DTYPES[setup.dtype])


def _open_eager(setup: Setup) -> Callable[[Any], Any]:
    """Eager at its fastest: no cache, and no attention mask (it would be all ones; without one, eager skips
    its gathers)."""
    from reformer_export.reference.eager import WITHOUT_CACHE

    spec = read_manifest(Path(setup.out)).spec
    model = load_eager(setup)
    if isinstance(spec, LucidrainsSpec):
        return lambda ids: [model(ids)]
    options: dict[str, Any] = {} if spec.task in WITHOUT_CACHE else {"use_cache": False}
    options["num_hashes"] = setup.options.num_hashes  # None: those of the spec
    return lambda ids: [model(ids, return_dict=True, **options)[name] for name in spec.output_names]


def _open_full_attention(setup: Setup) -> Callable[[Any], Any]:
    import torch

    from reformer_export.reference.full_attention import build_full_attention

    spec = read_manifest(Path(setup.out)).spec
    model = build_full_attention(spec, setup.dtype).to(setup.device)
    return lambda ids: model(ids, torch.ones_like(ids))
