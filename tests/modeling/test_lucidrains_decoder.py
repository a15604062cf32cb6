"""The canonical decoder of reformer-pytorch's models, for prompts and steps of a batch, against the model
itself and one sequence in plain tensors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, event, given, settings
from hypothesis import strategies as st

from reformer_export.artifact.decoding import cache_tensors, check_decodable, prompt_width
from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.errors import InputError
from reformer_export.lucidrains_spec import LucidrainsSpec, RotaryPositionsSpec
from reformer_export.modeling import LucidrainsDecoder, build_model
from reformer_export.modeling.lucidrains import LucidrainsReformer
from reformer_export.modeling.lucidrains_attention import (
    KEY_NORM_EPSILON,
    turn_pairs,
    unit_keys,
)
from reformer_export.modeling.lucidrains_masked import SELF_LOGIT
from reformer_export.ops import local_attention_reference, lsh_attention_reference, lsh_buckets_reference
from tests.lucidrains import SMALL, keyword_arguments, require_package, save_model

ATOL = 2e-5
GARBAGE = 7


class FrozenPast:
    """One sequence, token by token in plain tensors: every layer keeps what its tokens were when they were
    new, and attends by the whole operators, whose padding is virtual."""

    def __init__(self, model: LucidrainsReformer, prompt: torch.Tensor) -> None:
        """`prompt`: int64 [L], of the model's own pass."""
        self.model, self.spec = model, model.spec
        assert isinstance(self.spec, LucidrainsSpec)
        self.held: list[list[torch.Tensor]] = [[] for _ in model.spec.layers]
        hooks = [
            module.register_forward_hook(
                lambda _module, _inputs, output, held=held: held.append(output[:, : len(prompt)])
            )
            for held, layer in zip(self.held, model.encoder.layers, strict=True)
            for module in (
                layer.attention.self_attention.query_key,
                layer.attention.self_attention.value,
            )
        ]
        (self.logits,) = model(prompt[None], torch.ones(1, len(prompt), dtype=torch.int64))
        for hook in hooks:
            hook.remove()
        self.length = len(prompt)

    def take(self, token: int) -> torch.Tensor:
        """A token -> logits float32 [vocab_size] after it."""
        model = self.model
        hidden = model.embeddings(torch.tensor([[token]]), torch.tensor([[self.length]]))
        attended = hidden
        self.length += 1
        for held, layer in zip(self.held, model.encoder.layers, strict=True):
            _, normed = layer.attention.layer_norm(hidden)
            module = layer.attention.self_attention
            fresh = module.query_key(normed), module.value(normed)
            held[:] = [torch.cat([old, new], 1) for old, new in zip(held, fresh, strict=True)]
            update = layer.attention.output.dense(self._attend(module, *held)[:, -1:])
            gate = layer.attention.gate
            attended, output = layer.feed_forward(attended, update if gate is None else update * gate)
            hidden = hidden + output
        _, normed = model.encoder.layer_norm((attended + hidden) * 0.5)
        logits: torch.Tensor = model.lm_head(normed)[0, -1]
        return logits

    def _attend(self, module: Any, query_key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        if spec.has_one_value_head:
            value = value.repeat(1, 1, spec.num_heads)
        local, mask = spec.num_local_heads * spec.head_size, torch.ones(1, self.length, dtype=torch.int32)
        parts = []
        if local:
            parts.append(
                self._attend_locally(
                    query_key[..., :local],
                    value[..., :local],
                    mask,
                    (spec.num_local_heads, spec.padding_multiple, 1),
                )
            )
        query_key, value, heads = query_key[..., local:], value[..., local:], spec.num_hash_heads
        if not module.hashes:
            chunk = (heads, spec.longest_attended, 0)
            return torch.cat([*parts, self._attend_locally(query_key, value, mask, chunk)], -1)
        columns = -(-self.length // spec.padding_multiple)
        rotations = module.rotations[..., :columns].expand(heads, -1, -1, -1)
        buckets = lsh_buckets_reference(query_key, rotations, mask, heads, [])
        attributes = (spec.bucket_size, 1, 0, True, spec.padding_multiple, spec.dense_threshold)
        parts.append(
            lsh_attention_reference(
                self._turn(query_key, heads),
                *(value, buckets, mask, heads, *attributes),
                *(KEY_NORM_EPSILON, SELF_LOGIT, spec.dense_threshold),
            )
        )
        return torch.cat(parts, -1)

    def _turn(self, query_key: torch.Tensor, heads: int) -> torch.Tensor:
        scale = self.spec.head_size**-0.5
        if self.model.rotary_positions is None or self.length <= self.spec.dense_threshold:
            return query_key * scale
        turn = self.model.rotary_positions.turn(torch.arange(self.length).float())
        return turn_pairs(query_key, turn, heads, scale)

    @staticmethod
    def _attend_locally(
        query_key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, chunking: tuple[int, int, int]
    ) -> torch.Tensor:
        heads, chunk, before = chunking
        return local_attention_reference(
            query_key,
            unit_keys(query_key, heads),
            *(value, mask, heads, chunk, before, 0, True, chunk, chunk, SELF_LOGIT, False),
        )


def decode_batch(
    decoder: LucidrainsDecoder, rows: list[torch.Tensor], prompts: list[int], steps: int
) -> list[list[torch.Tensor]]:
    """Each row's logits after its prompt and after every step. Prompts join one call after the other, while
    the others rest."""
    spec, batch = decoder.spec, len(rows)
    caches = [
        torch.full(each.shape_of(batch, max(prompts) + steps + 1), GARBAGE).to(
            torch.int32 if each.dtype == "int32" else torch.float32
        )
        for each in cache_tensors(spec, "float32")
    ]
    held, logits = [0] * batch, [[] for _ in rows]
    for call in range(batch + steps):
        new = [int(call >= batch)] * batch
        if call < batch:
            new[call] = prompts[call]
        width = prompt_width(spec, max(new)) if call < batch else 1
        ids = torch.full((batch, width), spec.vocab_size - 1)
        for row, count in enumerate(new):
            ids[row, :count] = rows[row][held[row] : held[row] + count]
        lengths, fresh = (torch.tensor(x, dtype=torch.int32) for x in (held, new))
        result, *caches = decoder(ids, lengths, fresh, tuple(caches))
        for row, count in enumerate(new):
            held[row] += count
            if count:
                logits[row].append(result[row, 0])
    return logits


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(keywords=keyword_arguments(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_it_is_the_model_s_prompt_and_the_operators_last_rows(
    keywords: dict[str, Any], seed: int, data: st.DataObject
) -> None:
    require_package()
    keywords |= {"causal": True, "num_mem_kv": 0, "return_embeddings": False, "pkm_layers": []}
    with tempfile.TemporaryDirectory() as folder:
        file, config = save_model(Path(folder), keywords, "Autopadder", seed % 1000)
        hash_seed = None if keywords["use_full_attn"] else seed % 7
        checkpoint = load_lucidrains(str(file), config, LoadOptions(hash_seed=hash_seed))
    spec = checkpoint.spec
    assert isinstance(spec, LucidrainsSpec)
    assume(spec.takes_length(1) and spec.max_length > 4)
    check_decodable(spec)
    steps = data.draw(st.integers(1, min(25, spec.max_length - 1)))
    prompts = data.draw(st.lists(st.integers(1, spec.max_length - steps), min_size=1, max_size=2))
    event(f"dense keys: {spec.unturned_keys > 0}, hashed: {spec.is_hashed(0, max(prompts) + steps)}")
    model = build_model(spec, checkpoint.weights)
    assert isinstance(model, LucidrainsReformer)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(spec.vocab_size, (length + steps,), generator=generator) for length in prompts]
    with torch.no_grad():
        got = decode_batch(LucidrainsDecoder(model), rows, prompts, steps)
        for row, length, logits in zip(rows, prompts, got, strict=True):
            past = FrozenPast(model, row[:length])
            torch.testing.assert_close(logits[0], past.logits[0, -1], rtol=0, atol=ATOL)
            for step in range(steps):
                expected = past.take(int(row[length + step]))
                torch.testing.assert_close(logits[1 + step], expected, rtol=0, atol=ATOL)


def test_caches_hold_what_the_docs_say(tmp_path: Path) -> None:
    more = {"n_local_attn_heads": 1, "full_attn_thres": 24, "n_hashes": 2}
    file, config = save_model(tmp_path, SMALL | more)
    spec = load_lucidrains(str(file), config, LoadOptions()).spec
    assert isinstance(spec.positions, RotaryPositionsSpec)
    shapes = {each.name: each.shape for each in cache_tensors(spec, "float32") if each.layer == 1}
    assert shapes == {
        "query_key": ("capacity", 24),
        "value": ("capacity", 24),
        "records": (3, 2, "capacity"),
        "dense_key": (24, 24),
        "dense_value": (24, 24),
        "local_key": (16, 8),
        "local_value": (16, 8),
    }


@pytest.mark.parametrize(
    ("more", "wrapper", "message"),
    [
        ({"num_mem_kv": 3}, "Autopadder", "num_mem_kv 3"),
        ({}, None, "a model that takes no other lengths than multiples of 2 x bucket_size"),
        ({"n_local_attn_heads": 1, "full_attn_thres": 24}, "Autopadder", "takes no other lengths than"),
        ({"pkm_layers": [2]}, "Autopadder", "pkm_layers"),
        ({"causal": False}, "Autopadder", "sees later tokens"),
        ({"return_embeddings": True}, "Autopadder", "a model for feature-extraction"),
    ],
)
def test_what_cannot_decode_is_refused_by_name(
    tmp_path: Path, more: dict[str, Any], wrapper: str | None, message: str
) -> None:
    file, config = save_model(tmp_path, SMALL | more, wrapper)
    with pytest.raises(InputError, match=message):
        check_decodable(load_lucidrains(str(file), config, LoadOptions()).spec)
