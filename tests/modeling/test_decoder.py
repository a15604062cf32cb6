"""The canonical decoder, for prompts and steps of a batch, against one sequence in plain tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ReformerConfig

from reformer_export.artifact.decoding import cache_tensors
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.modeling import Decoder, Reformer, build_model
from reformer_export.modeling.layers import operator_attributes
from reformer_export.ops import local_attention_reference, lsh_attention_reference, lsh_buckets_reference
from reformer_export.spec import LSHAttentionSpec, ModelSpec
from tests.configurations import reformer_configs
from tests.hf_models import build_model as build_hf_model


class FrozenPast:
    """One sequence of a model, token by token in plain tensors: every layer keeps what its tokens were when
    they were new, and attends by the whole operator."""

    def __init__(self, model: Reformer) -> None:
        self.model = model
        self.held: list[list[torch.Tensor]] = [[] for _ in model.spec.layers]
        self.length = 0

    def take(self, ids: torch.Tensor) -> torch.Tensor:
        """New tokens int64 [Q] -> logits float32 [vocab_size] after the last."""
        model, new = self.model, len(ids)
        positions = torch.arange(self.length, self.length + new)
        stream = model.embeddings.word_embeddings(ids) + model.embeddings.position_embeddings(positions)
        attended = hidden = stream[None]
        self.length += new
        for index, layer in enumerate(model.encoder.layers):
            _, normed = layer.attention.layer_norm(hidden)
            output = layer.attention.output.dense(self._attend(index, layer.attention.self_attention, normed))
            attended = attended + output
            _, normed = layer.feed_forward.layer_norm(attended)
            hidden = hidden + self._feed(layer.feed_forward, normed)
        norm, streams = model.encoder.layer_norm, torch.cat([attended, hidden], -1)
        normed = torch.nn.functional.layer_norm(streams, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        logits: torch.Tensor = model.lm_head.decoder(normed)[0, -1]
        return logits

    def _attend(self, index: int, module: Any, normed: torch.Tensor) -> torch.Tensor:
        spec, attention = self.model.spec, self.model.spec.layers[index]
        names = (
            ("query_key", "value") if isinstance(attention, LSHAttentionSpec) else ("query", "key", "value")
        )
        fresh = [getattr(module, name)(normed) for name in names]
        held = self.held[index]
        held[:] = [torch.cat([old, x], 1) for old, x in zip(held, fresh, strict=True)] if held else fresh
        mask = torch.ones(1, self.length, dtype=torch.int32)
        attributes = operator_attributes(spec, attention)
        if not isinstance(attention, LSHAttentionSpec):
            whole = local_attention_reference(*held, mask, *attributes)
        else:
            buckets = module_buckets(spec, attention, module, held[0], mask)
            whole = lsh_attention_reference(*held, buckets, mask, *attributes)
        return whole[:, -normed.shape[1] :]

    @staticmethod
    def _feed(module: Any, normed: torch.Tensor) -> torch.Tensor:
        parts = zip(module.inner, module.outer, strict=True)
        return sum(outer(module.activation(inner(normed))) for inner, outer in parts)


def module_buckets(
    spec: ModelSpec, attention: LSHAttentionSpec, module: Any, query_key: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    return lsh_buckets_reference(
        query_key, module.rotations, mask, spec.num_heads, list(attention.num_buckets)
    )


def draw_rows(rng: np.random.Generator, longest: int) -> list[list[int]]:
    """For each row, how many new tokens it gets call by call: a prompt, then steps and rests."""
    calls = int(rng.integers(2, 6))
    rows = []
    for _ in range(int(rng.integers(1, 4))):
        prompt = int(rng.integers(1, max(2, longest - calls)))
        new = [0] * int(rng.integers(0, 2)) + [prompt]
        rows.append([*new, *(int(rng.random() < 0.8) for _ in range(calls - len(new)))])
    return [row if sum(row) <= longest else [1, *[0] * (calls - 1)] for row in rows]


@settings(max_examples=40, deadline=None)
@given(
    config=reformer_configs(is_decoder=True, lsh_num_chunks_after=0, local_num_chunks_after=0),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_decoder_is_the_model_with_a_frozen_past(
    tmp_path_factory: pytest.TempPathFactory, config: ReformerConfig, seed: int
) -> None:
    """Prompts give the model's own last logits; every row, whatever the others do, is the sequence alone."""
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("model")
    build_hf_model(config, transformers.ReformerModelWithLMHead).save_pretrained(folder)
    loaded = load_huggingface(str(folder), LoadOptions())
    model = build_model(loaded.spec, loaded.weights)
    decoder, rows = Decoder(model), draw_rows(rng, model.spec.max_length)
    batch, total = len(rows), max(map(sum, rows))
    ids = torch.from_numpy(rng.integers(0, config.vocab_size, (batch, total)))
    past = tuple(
        torch.full(each.shape_of(batch, total + 2), 7).to(
            torch.int32 if each.dtype == "int32" else torch.float32
        )
        for each in cache_tensors(model.spec, "float32")
    )
    oracles, held = [FrozenPast(model) for _ in rows], [0] * batch
    with torch.no_grad():
        for new in zip(*rows, strict=True):
            if not any(new):
                continue
            fresh = torch.zeros(batch, max(new), dtype=torch.int64)
            for b, count in enumerate(new):
                fresh[b, :count] = ids[b, held[b] : held[b] + count]
            tensors = (torch.tensor(held, dtype=torch.int32), torch.tensor(new, dtype=torch.int32))
            logits, *present = decoder(fresh, *tensors, past)
            past = tuple(present)
            for b, count in enumerate(new):
                if not count:
                    continue
                expected = oracles[b].take(fresh[b, :count])
                torch.testing.assert_close(logits[b, 0], expected, atol=1e-4, rtol=2e-5)
                if held[b] == 0:
                    whole = model(fresh[b : b + 1, :count], torch.ones(1, count, dtype=torch.int64))[0]
                    torch.testing.assert_close(logits[b, 0], whole[0, -1], atol=1e-4, rtol=2e-5)
                held[b] += count
