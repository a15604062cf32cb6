"""The truth for reformer-pytorch's models: the unpatched package, with the artifact's rotations.

The package draws rotations anew in every forward pass, so that it is no truth by itself. Its code runs as it
is: it asks torch.randn for numbers and gets the file's, drawn again from the recorded seeds.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.checkpoints import read_lucidrains_state
from reformer_export.checkpoints.lucidrains import select_weights
from reformer_export.checkpoints.lucidrains_keywords import ACTIVATIONS
from reformer_export.checkpoints.lucidrains_names import other_names
from reformer_export.errors import ArtifactError, CheckpointError, MissingDependencyError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.ops import draw_rotations
from reformer_export.reference.eager_values import Values, attention_name, last_rows
from reformer_export.reference.lucidrains_memories import (
    check_version,
    hook_memories,
    memory_values,
    pad_tokens,
)
from reformer_export.reference.lucidrains_values import LucidrainsValueReader
from reformer_export.reference.rotations import GivenRotations
from reformer_export.reference.runs import EagerRun
from reformer_export.spec import LSHAttentionSpec


class EagerLucidrains:
    """reformer-pytorch's own model of an artifact, wrapped as it was, loaded from the checkpoint's file.

    Attributes:
        model: the package's own, as it is called.
        notes: what a reader of a comparison should know of it, a sentence each.
    """

    def __init__(self, file: Path, manifest: Manifest) -> None:
        """Build it from the keyword arguments in the manifest, and load the tensors of `file`."""
        assert isinstance(manifest.spec, LucidrainsSpec)
        self.spec = manifest.spec
        self.notes: tuple[str, ...] = ()
        package, wrappers = _import_package()
        model_class = getattr(package, self.spec.architecture)
        keywords = _read_keywords(manifest, model_class)
        self._keywords = manifest.source["keywords"]
        with torch.random.fork_rng(devices=[]):
            self.net: Any = model_class(**keywords).eval()
        check_version(self.net, self.spec.product_keys)
        self._layers = _find_layers(self.net)
        memories = [layer - 1 for layer in keywords.get("pkm_layers", ())]
        _load_state(self.net, file, len(self._layers), keywords.get("weight_tie", False), memories)
        if self.spec.task == "feature-extraction" and not self.spec.takes_vectors:
            self.net.out = torch.nn.Identity()  # as the package has it for return_embeddings
        wrapper = manifest.source.get("wrapper")
        self.model: Any = self.net if wrapper is None else wrappers[wrapper](self.net).eval()
        self._rotations = {
            layer: draw_rotations(attention.hash_seed, self.spec.rotations_shape(layer))
            for layer, attention in enumerate(self.spec.layers)
            if isinstance(attention, LSHAttentionSpec)
        }

    def canonical_weights(self) -> dict[str, torch.Tensor]:
        """The model's own tensors, as `Checkpoint.weights` has them."""
        return select_weights(self.net.state_dict(), self.spec, self._keywords)

    def run(
        self,
        inputs: NDArray[Any],
        attention_mask: NDArray[np.int64],
        num_hashes: int | None = None,
        points: Collection[str] | None = (),
    ) -> EagerRun:
        """One forward pass; ids int64 [B, L] or vectors float32 [B, L, hidden_size], and int64 [B, L].
        Buckets are int32 [B, H, R, K] for the heads that hash, with the learned memory first, over the padded
        sequence; beside them `memory_values`, and what lucidrains_values.py reads of a ReformerLM.
        """
        found: dict[int, list[NDArray[np.int64]]] = {}
        chosen: dict[int, NDArray[np.int64]] = {}
        draws = GivenRotations(self._rotations)
        reader = LucidrainsValueReader(self.spec, attention_mask, points, lambda: draws.layer)
        with contextlib.ExitStack() as stack:
            for module, hook in self._hooks(draws, found):
                stack.callback(hook(module).remove)
            for handle in reader.attach(self.net):
                stack.callback(handle.remove)
            for handle in hook_memories(self.net, draws, chosen):
                stack.callback(handle.remove)
            stack.enter_context(self._with_rounds(num_hashes))
            stack.enter_context(draws)
            stack.enter_context(torch.no_grad())
            mask = torch.from_numpy(attention_mask).bool()
            result = self.model(torch.from_numpy(inputs), input_mask=mask)
        output = result.numpy()
        if self.spec.logits == "last":
            output = last_rows(output, attention_mask)
        buckets = self._arrange_buckets(found, len(mask), mask.shape[1], num_hashes)
        values: Values = {f"{attention_name(layer)}.buckets": x for layer, x in buckets.items()}
        size = self.spec.keys_in_graph(mask.shape[1]) - self.spec.num_memory_keys
        memories = {layer: pad_tokens(x, len(mask), size) for layer, x in chosen.items()}
        values |= memory_values(self.net, memories)
        return EagerRun({self.spec.output_names[0]: output}, buckets, reader.values() | values, memories)

    def _hooks(self, draws: GivenRotations, found: dict[int, list[NDArray[np.int64]]]) -> Iterator[Any]:
        """(module, what registers a hook on it): for the layer that runs, and the buckets that it chooses."""

        def enter(layer: int) -> Any:
            return lambda module: module.register_forward_pre_hook(lambda *_: draws.enter(layer))

        def keep(module: Any) -> Any:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                assert draws.layer is not None
                found.setdefault(draws.layer, []).append(output[2].numpy())

            return module.register_forward_hook(hook)

        hashing = {}
        for layer, (module, attention) in enumerate(self._layers):
            yield module, enter(layer)
            hashing[id(attention)] = attention.lsh_attn  # one for all layers that are tied
        for module in hashing.values():
            yield module, keep

    @contextlib.contextmanager
    def _with_rounds(self, num_hashes: int | None) -> Iterator[None]:
        """While the block runs, layers hash in `num_hashes` rounds."""
        modules = [attention.lsh_attn for _, attention in self._layers]
        before = [module.n_hashes for module in modules]
        try:
            for module, layer in zip(modules, self.spec.layers, strict=True):
                if isinstance(layer, LSHAttentionSpec):
                    module.n_hashes = num_hashes or layer.num_hashes
            yield
        finally:
            for module, count in zip(modules, before, strict=True):
                module.n_hashes = count

    def _arrange_buckets(
        self, found: dict[int, list[NDArray[np.int64]]], batch: int, length: int, num_hashes: int | None
    ) -> dict[int, NDArray[np.int32]]:
        """The package's buckets, [slice of B*H, R*K] counted on from round to round, as a graph has them;
        zeros where attention was dense."""
        heads, keys = self.spec.num_hash_heads, self.spec.keys_in_graph(length)
        arranged = {}
        for layer in self._rotations:
            attention = self.spec.layers[layer]
            assert isinstance(attention, LSHAttentionSpec)
            shape = batch, heads, num_hashes or attention.num_hashes, keys
            buckets = np.zeros(shape, np.int32)
            if layer in found:
                count = keys // self.spec.bucket_size
                counted = np.concatenate(found[layer]).reshape(shape)
                offsets = np.arange(shape[2])[:, None] * count
                buckets = np.roll(counted - offsets, self.spec.num_memory_keys, axis=-1).astype(np.int32)
            arranged[layer] = buckets
        return arranged


def _import_package() -> tuple[Any, dict[str, Any]]:
    try:
        import reformer_pytorch
        from reformer_pytorch.autopadder import Autopadder
        from reformer_pytorch.generative_tools import TrainingWrapper
    except ImportError as error:
        raise MissingDependencyError(
            "comparing with eager",
            f"'{error}'",
            "the package reformer-pytorch, whose model it is",
            "pip install 'reformer-export[lucidrains]'",
        ) from error
    return reformer_pytorch, {"Autopadder": Autopadder, "TrainingWrapper": TrainingWrapper}


def _read_keywords(manifest: Manifest, model_class: Any) -> dict[str, Any]:
    keywords = manifest.source.get("keywords")
    if not isinstance(keywords, dict):
        expected = "the keyword arguments of the model"
        raise ArtifactError("manifest", f"{keywords!r:.80} as keywords", expected, "export again")
    known = inspect.signature(model_class).parameters
    chosen = {name: value for name, value in keywords.items() if name in known}
    for name in ("axial_position_shape", "pkm_layers"):
        if isinstance(chosen.get(name), list):
            chosen[name] = tuple(chosen[name])
    if chosen.get("ff_activation") is not None:
        chosen["ff_activation"] = _find_activation(chosen["ff_activation"])
    return chosen


def _find_activation(name: str) -> Any:
    wanted = name.rpartition(".")[2].lower()
    return {known.lower(): getattr(torch.nn, known) for known in ("GELU", "ReLU", "SiLU", "Tanh", "Sigmoid")}[
        ACTIVATIONS[wanted]
    ]


def _find_layers(net: Any) -> list[tuple[Any, Any]]:
    """For each layer the module that begins it, whichever block it is in, and its attention."""
    if hasattr(net, "toqk"):
        return [(net, net)]
    blocks = getattr(net, "reformer", net).layers.blocks
    return [(block.f.net, block.f.net.fn) for block in blocks]


def _load_state(net: Any, file: Path, depth: int, is_tied: bool, memories: Collection[int]) -> None:
    """Load the tensors of `file`: all of the model's, where one of several names is enough."""
    state = read_lucidrains_state(file)
    result = net.load_state_dict(state, strict=False)
    missing = [
        name
        for name in result.missing_keys
        if not any(other in state for other in other_names(_reversible(name), depth, is_tied, memories))
    ]
    for problem in (*missing, *result.unexpected_keys):
        got = f"{'no' if problem in missing else 'the'} tensor {problem}"
        raise CheckpointError(file, got, "the tensors of reformer-pytorch's model", "export again")


def _reversible(name: str) -> str:
    """A name under `irrev_blocks` as it is under `blocks`."""
    head, found, tail = name.partition("irrev_blocks.")
    if not found:
        return name
    layer, block, rest = tail.split(".", 2)
    return f"{head}blocks.{layer}.{block}.net.{rest}"
