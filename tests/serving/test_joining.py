"""Which requests run together, and that each gets its own part: sequences by the model's padding, inputs of
custom modules by their shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.errors import InputError
from reformer_export.serving.joining import SequenceJoiner
from tests.runtimes.artifacts import make_manifest, make_spec, make_vector_spec

IDS = SequenceJoiner(make_manifest(Path(), make_spec(), "float32", ()), pad_token_id=3)
VECTORS = SequenceJoiner(make_manifest(Path(), make_vector_spec(), "float32", ()), pad_token_id=3)


def draw_sequences(joiner: SequenceJoiner, rng: Any, rows: int, length: int) -> dict[str, Any]:
    if joiner is IDS:
        return {"input_ids": rng.integers(1, 200, (rows, length))}
    return {"inputs_embeds": rng.standard_normal((rows, length, 4))}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([IDS, VECTORS]),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 8, 16]), st.booleans()), min_size=1),
)
def test_joined_rows_are_padded_and_masked(
    joiner: SequenceJoiner, kinds: list[tuple[int, int, bool]]
) -> None:
    rng = np.random.default_rng(len(kinds))
    requests = []
    for rows, length, masked in kinds:
        arrays = draw_sequences(joiner, rng, rows, length)
        if masked:
            arrays["attention_mask"] = np.ones((rows, length), np.int32)
            arrays["attention_mask"][:, length - 1 :] = length == 1
        requests.append(joiner.check(arrays, 64, None))
    for company in {request.company for request in requests}:
        together = [request for request in requests if request.company == company]
        # Nobody with a mask runs with another length, and nobody with a length that is padded otherwise.
        assert len({(len(each.inputs), each.length) for each in together}) == 1 or all(
            len(each.inputs) == 1 for each in together
        )
        joined = joiner.join(together)
        (name, batch), *rest = joined.items()
        mask = rest[0][1] if rest else np.ones(batch.shape[:2], np.int8)
        lengths = np.concatenate([mask_of(each).sum(axis=1) for each in together])
        np.testing.assert_array_equal(mask.sum(axis=1), lengths)
        outputs = {"last_hidden_state": batch, "logits": mask[..., None] * np.ones(5)}
        for request, own in zip(together, joiner.split(together, outputs), strict=True):
            np.testing.assert_array_equal(own["last_hidden_state"], request.inputs[name])
            np.testing.assert_array_equal(own["logits"][..., 0], mask_of(request))


def mask_of(request: Any) -> Any:
    ones = np.ones((request.rows, request.length), np.int8)
    return request.inputs.get("attention_mask", ones)


REFUSED: dict[str, tuple[SequenceJoiner, dict[str, Any], str]] = {
    "no ids": (IDS, {}, "input_ids: got none, expected a batch of sequences; give it"),
    "vectors for ids": (IDS, {"inputs_embeds": np.ones((1, 4, 4))}, "inputs: got 'inputs_embeds', expected"),
    "an id": (IDS, {"input_ids": np.array([[1, 258]])}, "row 0: got id 258 at position 1, expected ids from"),
    "a length": (IDS, {"input_ids": np.ones((1, 65), int)}, "65 tokens, expected at most 64"),
    "a width": (VECTORS, {"inputs_embeds": np.ones((1, 8, 3))}, r"float64 of shape \[8, 3\]"),
    "a number": (VECTORS, {"inputs_embeds": np.full((1, 8, 4), np.inf)}, "not finite in float32"),
    "a length of chunks": (VECTORS, {"inputs_embeds": np.ones((1, 9, 4))}, "got 9 tokens, expected up to 4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_of_sequences_does_not_take(name: str) -> None:
    joiner, arrays, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        joiner.check(arrays, 64, None)
