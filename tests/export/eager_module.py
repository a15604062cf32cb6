"""A user's own module, unpatched, with an artifact's rotations: the truth for what export_module writes."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.custom_spec import CustomSpec
from reformer_export.export.module_values import name_outputs
from reformer_export.libraries.operators import find_native_library
from reformer_export.ops import draw_rotations
from reformer_export.spec import LSHAttentionSpec


class _Rotations(TorchFunctionMode):
    """Answers torch.randn with the rotations of the layer that is called, drawn again from its seed."""

    def __init__(self, spec: CustomSpec) -> None:
        super().__init__()
        self._spec, self._calls = spec, Counter[str]()
        self._current: torch.Tensor | None = None

    def enter(self, path: str) -> None:
        key = (path, self._calls[path])
        self._calls[path] += 1
        index = [(use.path, use.call) for use in self._spec.uses].index(key)
        layer = self._spec.layers[index]
        self._current = None
        if isinstance(layer, LSHAttentionSpec):
            self._current = draw_rotations(layer.hash_seed, self._spec.rotations_shape(index))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.randn or "generator" in (kwargs or {}):  # draw_rotations' own
            return func(*args, **(kwargs or {}))
        assert self._current is not None
        entries, _, rounds, half = args[0]
        rotations = self._current[:, :, :rounds, :half]
        return rotations[torch.arange(entries) % len(rotations)]


def run_eager(module: torch.nn.Module, manifest: Manifest, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The outputs of `module` by name, numpy's; nothing of it changes."""
    assert isinstance(manifest.spec, CustomSpec)
    module = copy.deepcopy(module)
    rotations = _Rotations(manifest.spec)
    for path in {use.path for use in manifest.spec.uses}:
        layer: Any = module.get_submodule(path)
        layer.register_forward_pre_hook(lambda *_, path=path: rotations.enter(path))
        index = [use.path for use in manifest.spec.uses].index(path)
        factors = getattr(manifest.spec.layers[index], "num_buckets", ())
        if getattr(layer, "num_buckets", 0) is None:  # transformers chooses it at the first call
            layer.num_buckets = list(factors)
    with rotations, torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = name_outputs(module(*args, **kwargs))
    names = [each.name for each in manifest.outputs]
    return {name: tensor.numpy() for name, (_, tensor) in zip(names, outputs, strict=True)}


class Sessions:
    """An artifact in ONNX Runtime: on function bodies, and on the native library where there is one."""

    def __init__(self, out: Path) -> None:
        self._sessions = {"bodies": onnxruntime.InferenceSession(out / MODEL_NAME)}
        library = find_native_library("auto")
        if library is not None:
            options = onnxruntime.SessionOptions()
            options.register_custom_ops_library(str(library.path))
            self._sessions["native"] = onnxruntime.InferenceSession(out / MODEL_NAME, options)

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, dict[str, NDArray[Any]]]:
        """Of each session the outputs by name."""
        arrays = {name: np.asarray(tensor) for name, tensor in feeds.items()}
        return {
            kind: dict(zip([x.name for x in session.get_outputs()], session.run(None, arrays), strict=True))
            for kind, session in self._sessions.items()
        }


def worst_difference(got: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    """The greatest absolute difference of any element of any output."""
    assert set(got) == set(expected)
    for name in expected:
        assert got[name].shape == expected[name].shape
        assert got[name].dtype == expected[name].dtype
    return max(float(np.abs(got[n] - expected[n]).max(initial=0.0)) for n in expected)
