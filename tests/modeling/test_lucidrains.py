"""The canonical model against the unpatched package, on the same rotations."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.checkpoints import Checkpoint, LoadOptions, load_lucidrains
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling import build_model
from reformer_export.modeling.lucidrains_masked import SELF_LOGIT, weights_alone
from reformer_export.parity.point_errors import Judge
from reformer_export.parity.points import Point
from reformer_export.reference.eager_values import memory_name
from reformer_export.spec import ModelSpec
from tests.lucidrains import SMALL, draw_vectors, keyword_arguments, require_package, save_model

ATOL = 1e-4
"""Largest difference at attended positions, of outputs up to a few units."""


def manifest_of(checkpoint: Checkpoint) -> Manifest:
    """A manifest that says where `checkpoint` came from."""
    return Manifest(checkpoint.spec, "float32", 20, {}, checkpoint.source, {}, {})


def draw_mask(rng: np.random.Generator, kind: str, batch: int, length: int) -> NDArray[np.int64]:
    """int64 [batch, length]: all ones, right padding, or holes; at least one 1 a row."""
    mask = np.ones((batch, length), np.int64)
    if kind == "padded":
        mask[:] = np.arange(length) < rng.integers(1, length + 1, batch)[:, None]
    elif kind == "holes":
        mask[:] = rng.integers(0, 2, mask.shape)
        mask[np.arange(batch), rng.integers(0, length, batch)] = 1
    return mask


def draw_inputs(spec: ModelSpec, rng: np.random.Generator, batch: int, length: int) -> NDArray[Any]:
    """Ids int64 [batch, length], or vectors float32 [batch, length, hidden_size]."""
    if spec.takes_vectors:
        return draw_vectors(rng, batch, length, spec.hidden_size)
    return rng.integers(0, spec.vocab_size, (batch, length))


@contextlib.contextmanager
def given_memories(model: Any, memories: dict[int, NDArray[np.int64]]) -> Iterator[dict[str, NDArray[Any]]]:
    """While the block runs, the canonical model takes the memories int64 [N, H, k] by layer in place of its
    own choice, which it leaves in what this gives, with its queries, by the names of points."""
    found: dict[str, NDArray[Any]] = {}

    def keep(name: str, given: torch.Tensor | None = None) -> Any:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            found[name] = output.numpy()
            return given

        return hook

    with contextlib.ExitStack() as stack:
        for layer, chosen in memories.items():
            memory, name = model.encoder.layers[layer].feed_forward.memory, memory_name(layer)
            for part, given in (("query_norm", None), ("choice", torch.from_numpy(chosen))):
                hook = getattr(memory, part).register_forward_hook(keep(f"{name}.{part}", given))
                stack.callback(hook.remove)
        yield found


def compare(
    checkpoint: Checkpoint, file: Path, lengths: list[int], batch: int, kind: str, seed: int
) -> float:
    """The largest difference of the two models at attended positions; every element of every length.

    Memories are eager's: where two score alike to rounding, a model may choose either, and nowhere else.
    """
    from reformer_export.reference.lucidrains import EagerLucidrains

    eager = EagerLucidrains(file, manifest_of(checkpoint))
    model = build_model(checkpoint.spec, checkpoint.weights)
    (name,) = checkpoint.spec.output_names
    rng, worst = np.random.default_rng(seed), 0.0
    for length in lengths:
        inputs = draw_inputs(checkpoint.spec, rng, batch, length)
        mask = draw_mask(rng, kind, batch, length)
        truth = eager.run(inputs, mask)
        expected = truth.outputs[name]
        with torch.no_grad(), given_memories(model, truth.memories) as found:
            (got,) = model(torch.from_numpy(inputs), torch.from_numpy(mask))
        judge = Judge(checkpoint.spec, "float32", truth.values, mask)
        for layer in truth.memories:
            point = Point(f"{memory_name(layer)}.choice", "", 0, layer, "memories", 3, 7)
            assert judge.count_flips(point, found, found).unexplained == 0
        assert got.shape == expected.shape
        worst = max(worst, float(np.abs(got.numpy() - expected)[mask == 1].max()))
    return worst


def error_of_drawn_lengths(
    keywords: dict[str, Any], wrapper: str | None, kind: str, batch: int, seed: int, data: st.DataObject
) -> float:
    """The worst error of a model of such keywords at its longest length and up to three others."""
    require_package()
    with tempfile.TemporaryDirectory() as folder:
        file, config = save_model(Path(folder), keywords, wrapper, seed % 1000)
        hash_seed = None if keywords["use_full_attn"] else seed % 7
        checkpoint = load_lucidrains(str(file), config, LoadOptions(hash_seed=hash_seed))
        spec = checkpoint.spec
        takes = [length for length in range(1, spec.max_length + 1) if spec.takes_length(length)]
        lengths = data.draw(st.lists(st.sampled_from(takes), min_size=1, max_size=3))
        return compare(checkpoint, file, [*lengths, takes[-1]], batch, kind, seed)


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    keywords=keyword_arguments(),
    wrapper=st.sampled_from([None, "Autopadder", "TrainingWrapper"]),
    kind=st.sampled_from(["whole", "padded", "holes"]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_it_equals_eager(
    keywords: dict[str, Any], wrapper: str | None, kind: str, batch: int, seed: int, data: st.DataObject
) -> None:
    error = error_of_drawn_lengths(keywords, wrapper, kind, batch, seed, data)
    event(f"worst {'1e-5' if error > 1e-5 else '1e-6' if error > 1e-6 else 'below 1e-6'}")
    assert error < ATOL


def test_every_length_that_is_refused_is_refused_by_eager(tmp_path: Path) -> None:
    """`takes_length` is eager's own: where it says no, the package asserts."""
    for number, (more, wrapper) in enumerate(
        [
            ({}, None),
            ({"full_attn_thres": 13}, None),
            ({"num_mem_kv": 3}, None),
            ({"n_local_attn_heads": 1, "full_attn_thres": 24}, "Autopadder"),
            ({"absolute_position_emb": True, "max_seq_len": 30}, "Autopadder"),
            (
                {"axial_position_emb": True, "axial_position_shape": [5, 5], "full_attn_thres": 13},
                "Autopadder",
            ),
        ]
    ):
        file, config = save_model(tmp_path / str(number), SMALL | more, wrapper)
        checkpoint = load_lucidrains(str(file), config, LoadOptions())
        spec = checkpoint.spec
        assert isinstance(spec, LucidrainsSpec)
        for length in range(1, spec.position_limit + 1):
            taken = spec.takes_length(length)
            assert taken == _runs(checkpoint, file, length), f"{more}, {length} tokens"


def _runs(checkpoint: Checkpoint, file: Path, length: int) -> bool:
    from reformer_export.reference.lucidrains import EagerLucidrains

    eager = EagerLucidrains(file, manifest_of(checkpoint))
    try:
        eager.run(np.ones((1, length), np.int64), np.ones((1, length), np.int64))
    except (AssertionError, IndexError):
        return False
    return True


def test_masked_tokens_are_eager_s_too_where_they_hash(tmp_path: Path) -> None:
    """They move other tokens' chunks, so that what they attend to matters."""
    from reformer_export.reference.lucidrains import EagerLucidrains

    for more in ({}, {"n_local_attn_heads": 2}, {"n_local_attn_heads": 2, "causal": False}):
        file, config = save_model(tmp_path, SMALL | {"depth": 3} | more)
        checkpoint = load_lucidrains(str(file), config, LoadOptions())
        eager = EagerLucidrains(file, manifest_of(checkpoint))
        model = build_model(checkpoint.spec, checkpoint.weights)
        rng = np.random.default_rng(3)
        ids, mask = rng.integers(0, 50, (4, 56)), draw_mask(rng, "holes", 4, 56)
        mask[0, :30], mask[1, 20:] = 0, 0
        mask[0, -1] = 1
        with torch.no_grad():
            (got,) = model(torch.from_numpy(ids), torch.from_numpy(mask))
        np.testing.assert_allclose(got.numpy(), eager.run(ids, mask).outputs["logits"], rtol=0, atol=1e-5)


def test_tied_layers_share_their_tensors(tmp_path: Path) -> None:
    file, config = save_model(tmp_path, SMALL | {"weight_tie": True})
    model = build_model(*_parts(load_lucidrains(str(file), config, LoadOptions())))
    first, second = (layer.attention.self_attention.query_key.weight for layer in model.encoder.layers)
    assert first.data_ptr() == second.data_ptr()


def _parts(checkpoint: Checkpoint) -> tuple[Any, Any]:
    return checkpoint.spec, checkpoint.weights


@pytest.mark.parametrize("num_hashes", [1, 2, 5, 8])
def test_weights_of_a_token_alone_are_those_of_its_rounds(num_hashes: int) -> None:
    """A share exp(logit - lse) of each key, by exp(lse - logsumexp of the rounds), as float32 has it."""
    weights = weights_alone(num_hashes)
    for rounds in range(1, num_hashes + 1):  # a run may take fewer than there are
        for twice in range(rounds + 1):
            copies = torch.tensor([2.0] * twice + [1.0] * (rounds - twice))
            lse = copies.log() + SELF_LOGIT
            greatest = lse.max()
            all_rounds = (lse - greatest).exp().sum().log() + greatest
            expected = (copies * (SELF_LOGIT - lse).exp() * (lse - all_rounds).exp()).sum()
            found = weights[(num_hashes + 1) * twice + rounds - twice]
            torch.testing.assert_close(found[0], expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("wrapper", [None, "Autopadder"])
def test_logits_last_are_those_of_the_last_attended_token(tmp_path: Path, wrapper: str | None) -> None:
    file, config = save_model(tmp_path, SMALL, wrapper)
    normed: dict[str, list[torch.Tensor]] = {"all": [], "last": []}
    models: dict[str, Any] = {}
    for logits, found in normed.items():
        checkpoint = load_lucidrains(str(file), config, LoadOptions(logits=logits))  # type: ignore[arg-type]
        models[logits] = build_model(checkpoint.spec, checkpoint.weights)
        norm = models[logits].encoder.layer_norm
        norm.register_forward_hook(lambda _module, _inputs, output, found=found: found.append(output[1]))
    rng = np.random.default_rng(0)
    for length in (16, 32, 1, 7, 33) if wrapper else (16, 32):
        ids = rng.integers(0, 50, (3, length))
        for kind in ("none", "padded", "holes"):
            mask = draw_mask(rng, kind, 3, length)
            given = torch.from_numpy(ids), torch.from_numpy(mask)
            with torch.no_grad():
                outputs = {logits: model(*given)[0] for logits, model in models.items()}
            rows = torch.arange(3), torch.from_numpy((mask * np.arange(length)).max(1))
            assert torch.equal(normed["last"][-1][:, 0], normed["all"][-1][rows])
            torch.testing.assert_close(outputs["last"][:, 0], outputs["all"][rows])
