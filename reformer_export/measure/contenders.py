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

from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.artifact.signature import SEQUENCE
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.runtimes.named_inputs import example_inputs, least_sizes
from reformer_export.spec import DType

Name = Literal["artifact", "eager", "full-attention"]
Device = Literal["cpu", "cuda"]
Inputs = NDArray[Any] | dict[str, NDArray[Any]]
"""int64 [B, L] token ids, float32 [B, L, hidden_size] vectors, or a custom module's inputs by name."""
Run = Callable[[Any], dict[str, NDArray[Any]]]
"""`Inputs`, nothing padded -> the outputs by name, on the CPU."""

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


def random_inputs(manifest: Manifest, batch: int, length: int) -> Inputs:
    """What the model takes: seeded token ids int64 [batch, length], or vectors of normal numbers float32
    [batch, length, hidden_size]; of a custom module its inputs by name, with so many rows, where it has rows,
    so long, where one of its dimensions is the length, and the least sizes of all others."""
    if manifest.is_custom:
        named = {manifest.signature.batch: batch, length_dimension(manifest): length}
        sizes = {name: named.get(name, least) for name, least in least_sizes(manifest).items()}
        return example_inputs(manifest, sizes, np.random.default_rng(0))
    spec = manifest.spec
    if not spec.takes_vectors:
        return random_ids(spec.vocab_size, batch, length)
    return np.random.default_rng(0).standard_normal((batch, length, spec.hidden_size), np.float32)


def length_dimension(manifest: Manifest) -> str | None:
    """The dimension of a custom module's inputs that is told as their length: `sequence`, else the first that
    is not that of rows; None where there is no other."""
    others = [name for name in manifest.signature.dimensions if name != manifest.signature.batch]
    return SEQUENCE if SEQUENCE in others else next(iter(others), None)


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
