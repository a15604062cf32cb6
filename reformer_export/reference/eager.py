"""The truth: unpatched transformers eager, with the artifact's seeds, hashes and buckets.

Forward hooks read its values; no module is replaced and no method is changed. For fewer rounds of hashing
than a layer has, eager's draw of random numbers is answered with the first rounds of all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.checkpoints import HEAD_OF_TASK, read_head_bias
from reformer_export.checkpoints.names import BASE_PREFIX, expected_shapes
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.custom_spec import CustomSpec
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling import TORCH_DTYPES
from reformer_export.ops import draw_rotations
from reformer_export.reference.eager_values import (
    SPAN_OUTPUTS,
    ValueReader,
    Values,
    attention_name,
    last_rows,
)
from reformer_export.reference.rotations import GivenRotations
from reformer_export.reference.rounded import round_weights
from reformer_export.reference.runs import Eager, EagerRun
from reformer_export.spec import LSHAttentionSpec, ModelSpec, Task

MODEL_CLASSES: Final[dict[Task, str]] = {
    "feature-extraction": "ReformerModel",
    "text-generation": "ReformerModelWithLMHead",
    "fill-mask": "ReformerForMaskedLM",
    "text-classification": "ReformerForSequenceClassification",
    "question-answering": "ReformerForQuestionAnswering",
}


def open_eager(checkpoint: Path, manifest: Manifest) -> Eager:
    """The model of the artifact that `manifest` describes, from its checkpoint: transformers' folder, or the
    file of tensors of reformer-pytorch."""
    if isinstance(manifest.spec, LucidrainsSpec):
        from reformer_export.reference.lucidrains import EagerLucidrains

        return EagerLucidrains(checkpoint, manifest)
    return open_transformers(checkpoint, manifest)


def open_rounded(checkpoint: Path, manifest: Manifest) -> Eager:
    """`open_eager`, with the weights of few bits that the artifact has, and its rounding of what these are
    multiplied by."""
    eager, spec = open_eager(checkpoint, manifest), manifest.spec
    round_weights(eager.model, manifest.low_precision, spec.feed_forward_slices, TORCH_DTYPES[manifest.dtype])
    return eager


def open_transformers(checkpoint_folder: Path, manifest: Manifest) -> EagerReformer:
    """transformers' model of the artifact that `manifest` describes, with its head's bias."""
    eager = EagerReformer(checkpoint_folder, manifest.spec)
    if HEAD_OF_TASK.get(manifest.spec.task) == "lm_head":
        pickled = any(name.endswith(".bin") for name in manifest.source.get("files", {}))
        eager.add_head_bias(read_head_bias(checkpoint_folder, pickled))
    return eager


def recorded_rotations(spec: ModelSpec, layer: int) -> NDArray[np.float32]:
    """Rotations [H, D, R, S] drawn again from an LSH layer's seed: the file's own are under test."""
    attention = spec.layers[layer]
    assert isinstance(attention, LSHAttentionSpec)
    drawn = draw_rotations(attention.hash_seed, spec.rotations_shape(layer))
    heads = spec.uses[layer].num_heads if isinstance(spec, CustomSpec) else spec.num_hash_heads
    rotations: NDArray[np.float32] = drawn.expand(heads, -1, -1, -1).numpy()
    return rotations


class EagerReformer:
    """transformers' own model for an artifact's spec, loaded from the checkpoint's folder; prints nothing.

    Attributes:
        model: transformers' own.
        notes: what a reader of a comparison should know of it, a sentence each.
    """

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        """Load the checkpoint in `folder` in float32; its hashing follows `spec`, as recorded at export."""
        self.spec = spec
        config = transformers.ReformerConfig.from_pretrained(folder)
        first_lsh = next((x for x in spec.layers if isinstance(x, LSHAttentionSpec)), None)
        if first_lsh is not None:
            config.num_hashes = first_lsh.num_hashes
            factors = first_lsh.num_buckets
            config.num_buckets = factors[0] if len(factors) == 1 else list(factors)
        # Eager refuses lengths that are no multiple of these; they change its memory, not its results.
        config.chunk_size_feed_forward = config.chunk_size_lm_head = 0
        model_class = getattr(transformers, MODEL_CLASSES[spec.task])
        with silence_transformers():
            self.model: Any = model_class.from_pretrained(folder, config=config, dtype=torch.float32).eval()
        self.notes: tuple[str, ...] = ()
        self._prefix = "" if spec.task == "feature-extraction" else BASE_PREFIX
        for index in spec.lsh_layers:
            layer = spec.layers[index]
            assert isinstance(layer, LSHAttentionSpec)
            self._attention(index).hash_seed = layer.hash_seed

    def canonical_weights(self) -> dict[str, torch.Tensor]:
        """The model's own tensors, as `Checkpoint.weights` has them."""
        state = {name.removeprefix(BASE_PREFIX): x for name, x in self.model.state_dict().items()}
        return {name: state[name] for name in expected_shapes(self.spec) if name in state}

    def add_head_bias(self, bias: torch.Tensor) -> None:
        """Let the language-model head add `bias`, float32 [vocab_size], where it does not do so by itself.

        transformers 4 added it under either name. 5.0 to 5.23 build the head without a bias; later ones leave
        it out when a checkpoint has `lm_head.bias` alone, the old name.
        """
        decoder = self.model.lm_head.decoder
        if decoder.bias is not None and torch.equal(decoder.bias, bias):
            return
        given = torch.zeros_like(bias) if decoder.bias is None else decoder.bias.detach()
        decoder.bias = torch.nn.Parameter(bias, requires_grad=False)
        difference = float((bias - given).abs().max())
        if difference > 0:
            self.notes += (
                f"transformers {transformers.__version__} leaves the trained bias of the language-model head "
                f"out (its logits are off by up to {difference:.1e}): it was added to eager here",
            )

    def _attention(self, layer: int) -> Any:
        return self.model.get_submodule(self._prefix + attention_name(layer))

    def _first_rounds(self) -> GivenRotations:
        """Of each layer's draw for all of its rounds."""
        drawn = {
            layer: torch.from_numpy(recorded_rotations(self.spec, layer)) for layer in self.spec.lsh_layers
        }
        return GivenRotations(drawn)

    def run(
        self,
        inputs: NDArray[Any],
        attention_mask: NDArray[np.int64],
        num_hashes: int | None = None,
        points: Collection[str] | None = (),
    ) -> EagerRun:
        """One forward pass; int64 [B, L] each. The caller's global random state is left as it was.

        `num_hashes` uses only the first of each LSH layer's rounds; None uses all. `points` names the values
        to read besides the outputs; None for all.
        """
        reader = ValueReader(self.spec, attention_mask, num_hashes, points)
        handles = [
            self.model.get_submodule(name).register_forward_hook(hook)
            for name, hook in reader.hooks(self._prefix)
        ]
        draws: Any = contextlib.nullcontext()
        if num_hashes is not None:
            draws = self._first_rounds()
            handles += [
                self._attention(layer).register_forward_pre_hook(lambda *_, i=layer: draws.enter(i))
                for layer in self.spec.lsh_layers
            ]
        try:
            with silence_transformers(), torch.random.fork_rng(devices=[]), torch.no_grad(), draws:
                result = self.model(
                    torch.from_numpy(inputs),
                    attention_mask=torch.from_numpy(attention_mask),
                    return_dict=True,
                    num_hashes=num_hashes,
                    **({} if self.spec.task in WITHOUT_CACHE else {"use_cache": False}),
                )
        finally:
            for handle in handles:
                handle.remove()
        outputs = {name: np.asarray(result[name].numpy(), np.float32) for name in self.spec.output_names}
        if self.spec.logits == "last":
            outputs["logits"] = last_rows(outputs["logits"], attention_mask)
        values: Values = {name: outputs[name] for name in SPAN_OUTPUTS if name in outputs}
        values |= {f"{attention_name(layer)}.buckets": found for layer, found in reader.buckets.items()}
        return EagerRun(outputs, reader.buckets, reader.values | values)


WITHOUT_CACHE: Final[frozenset[Task]] = frozenset({"fill-mask", "text-classification", "question-answering"})
