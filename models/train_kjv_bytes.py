#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the byte-level Reformer that is shipped in ``models/kjv-bytes``.

The text is the King James Bible as the ``bible`` command prints it (Debian package
``bible-kjv``); the last books, Colossians to Revelation, are held out for validation.
The model is a plain ``transformers`` ``ReformerModelWithLMHead``. Training runs the same
modules through ordinary autograd instead of the reversible backward pass (which would
compute every layer twice) and draws new hash rotations at every step. The exported
configuration has a fixed ``hash_seed``, so that evaluation is reproducible.

    python models/train_kjv_bytes.py --out models/kjv-bytes
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from byte_evaluation import SEQUENCE_LENGTH, Predict
from byte_training import Trainer, parser_of_run, train
from kjv_text import VOCABULARY_SIZE
from torch import Tensor
from torch.nn import functional
from transformers import ReformerConfig, ReformerModelWithLMHead

NAME = "kjv-bytes"
SHIPPED_HASH_SEED = 0
POSITION_RMS = 0.06  # of the initial axial position embeddings


def build_config() -> ReformerConfig:
    """Return the architecture; ``hash_seed`` is None, as in training."""
    return ReformerConfig(
        vocab_size=VOCABULARY_SIZE,
        pad_token_id=0,
        eos_token_id=1,
        is_decoder=True,
        hidden_size=192,
        num_attention_heads=3,
        attention_head_size=64,
        feed_forward_size=768,
        hidden_act="gelu",
        attn_layers=["local", "lsh"] * 3,
        max_position_embeddings=SEQUENCE_LENGTH,
        axial_pos_shape=[32, 64],
        axial_pos_embds_dim=[64, 128],
        axial_norm_std=0.02,
        initializer_range=0.02,
        local_attn_chunk_length=64,
        lsh_attn_chunk_length=64,
        num_hashes=2,
        num_buckets=64,
        hidden_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        hash_seed=None,
    )


@torch.no_grad()
def initialise_positions(model: ReformerModelWithLMHead) -> None:
    """Set the axial position embeddings to the harmonics of their axis, high ones weaker.

    A step to the previous position is then one linear map everywhere, and attention to near
    positions is found some hundred steps after the start; with random position embeddings
    training stays far longer at what pairs of letters can predict.
    """
    for axis, weight in enumerate(model.reformer.embeddings.position_embeddings.weights):
        length, width = weight.shape[axis], weight.shape[-1]
        harmonics = torch.arange(1, length // 2 + 1)
        angles = torch.arange(length)[:, None] * harmonics * 2 * math.pi / length
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        waves = waves * torch.cat([harmonics, harmonics]) ** -0.5
        waves = waves / waves.pow(2).mean().sqrt() * math.sqrt(width / waves.shape[1])
        values = torch.zeros(length, width)
        values[:, : waves.shape[1]] = waves[:, :width] * POSITION_RMS
        weight.copy_(values.view(weight.shape))


def training_loss(model: ReformerModelWithLMHead, ids: Tensor, bf16: bool) -> Tensor:
    """Return the mean next-byte loss (nats), through ordinary autograd.

    Same modules and same result as ``model(ids, labels=ids).loss`` without dropout; only the
    reversible backward pass is left out. With ``bf16`` all but the LSH attention is autocast:
    nothing bounds the length of its queries, and once they are long, rounded dot products
    drown the gradient and the run diverges.
    """
    encoder = model.reformer.encoder
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        attention_stream = hidden_stream = model.reformer.embeddings(input_ids=ids)
        for layer, kind in zip(encoder.layers, model.config.attn_layers, strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16 and kind == "local"):
                attended = layer.attention(hidden_stream).hidden_states
            attention_stream = attention_stream + attended
            hidden_stream = hidden_stream + layer.feed_forward(attention_stream)
        hidden = encoder.layer_norm(torch.cat([attention_stream, hidden_stream], dim=-1))
        logits = model.lm_head(hidden)[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def export(model: ReformerModelWithLMHead, folder: Path) -> None:
    """Save the model as ``transformers`` does, with a fixed hash seed, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as beside:
        model.config.hash_seed = SHIPPED_HASH_SEED
        model.save_pretrained(beside)
        model.config.hash_seed = None
        for file in sorted(Path(beside).iterdir()):
            file.chmod(0o644)
            file.replace(folder / file.name)


def predict_with(model: ReformerModelWithLMHead) -> Predict:
    """Return the model's own forward pass, as evaluation calls it."""
    return lambda ids: model(ids, use_cache=False).logits


class TransformersTrainer(Trainer):
    """A run of transformers' model."""

    model: ReformerModelWithLMHead

    def __init__(self, options: argparse.Namespace, train_ids: Tensor, held_out_ids: Tensor) -> None:
        """Build or restore the run, and compile its loss."""
        super().__init__(options, train_ids, held_out_ids)
        self.run_loss = torch.compile(training_loss) if options.compile else training_loss

    def build_model(self) -> ReformerModelWithLMHead:
        """Return a new model, ready to be trained."""
        model = ReformerModelWithLMHead(build_config()).train()
        initialise_positions(model)
        return model

    def loss(self, ids: Tensor) -> Tensor:
        """Return the mean next-byte loss (nats)."""
        return self.run_loss(self.model, ids, self.options.bf16)

    def predict(self, ids: Tensor) -> Tensor:
        """Return the model's logits."""
        return predict_with(self.model)(ids)

    def export(self) -> None:
        """Save the model as ``transformers`` does, with a fixed hash seed."""
        export(self.model, self.options.out)

    def load_export(self) -> Predict:
        """Load the saved model, as any user of ``transformers`` would."""
        return predict_with(ReformerModelWithLMHead.from_pretrained(self.options.out).eval())

    def more_facts(self, shipped: Predict) -> dict[str, Any]:
        """Return the version of ``transformers``."""
        return {"transformers": transformers.__version__}


def main() -> None:
    """Train, export, evaluate the export and write its training facts."""
    transformers.logging.set_verbosity_error()  # not a line for every prompt that is padded
    parser = parser_of_run((__doc__ or "").partition("\n")[0], NAME)
    parser.set_defaults(steps=6500)
    train(TransformersTrainer, parser.parse_args())


if __name__ == "__main__":
    main()
