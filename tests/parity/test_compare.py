from __future__ import annotations

import numpy as np
import pytest
import torch

from reformer_export.ops import draw_rotations, lsh_buckets_reference
from reformer_export.parity.compare import OutputDifference, compare_buckets, compare_outputs
from reformer_export.spec import LearnedPositionsSpec, LSHAttentionSpec, ModelSpec

HEADS, SIZE, ROUNDS, LENGTH, FACTORS = 2, 8, 3, 24, (4, 6)


@pytest.fixture
def spec():
    layer = LSHAttentionSpec(8, 1, 0, ROUNDS, FACTORS, 0)
    return ModelSpec(
        task="feature-extraction",
        vocab_size=10,
        hidden_size=16,
        num_heads=HEADS,
        head_size=SIZE,
        feed_forward_size=16,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        is_causal=False,
        positions=LearnedPositionsSpec(64),
        max_position_embeddings=64,
        layers=(layer,),
    )


@pytest.fixture
def hashed():
    """(query_key, rotations, buckets, mask) of one random layer."""
    query_key = torch.randn(2, LENGTH, HEADS * SIZE, generator=torch.Generator().manual_seed(0))
    rotations = draw_rotations(0, (HEADS, SIZE, ROUNDS, sum(FACTORS) // 2))
    mask = np.ones((2, LENGTH), np.int64)
    mask[1, 20:] = 0
    buckets = lsh_buckets_reference(query_key, rotations, torch.from_numpy(mask).int(), HEADS, FACTORS)
    return query_key.numpy(), rotations.numpy(), buckets.numpy(), mask


def compare(spec, hashed, got, dtype="float32"):
    query_key, rotations, buckets, mask = hashed
    return compare_buckets(0, spec, dtype, got, buckets, query_key, rotations, mask)


def test_equal_buckets_agree(spec, hashed):
    agreement = compare(spec, hashed, hashed[2].copy())
    assert (agreement.flips, agreement.unexplained) == (0, 0)
    assert agreement.hashed == (LENGTH + 20) * HEADS * ROUNDS


def test_wrong_bucket_is_an_unexplained_flip(spec, hashed):
    got = hashed[2].copy()
    got[0, 1, 2, 3] = (got[0, 1, 2, 3] + 1) % 24
    agreement = compare(spec, hashed, got)
    assert (agreement.flips, agreement.unexplained) == (1, 1)
    assert agreement.worst_margin > 1e-3


def test_a_flip_that_its_vector_wants_is_not_misplaced(spec, hashed):
    """A wrong vector, hashed rightly, is told from a right one, hashed otherwise."""
    query_key, rotations, buckets, mask = hashed
    moved = np.random.default_rng(1).standard_normal(query_key.shape).astype(np.float32)
    own = lsh_buckets_reference(
        torch.from_numpy(moved), torch.from_numpy(rotations), torch.from_numpy(mask).int(), HEADS, FACTORS
    ).numpy()
    agreement = compare_buckets(0, spec, "float32", own, buckets, moved, rotations, mask)
    assert (agreement.misplaced, agreement.unexplained > 100) == (0, True)
    other = compare_buckets(0, spec, "float32", own, buckets, query_key, rotations, mask)
    assert (other.flips, other.misplaced) == (agreement.flips, agreement.flips)


def test_bucket_out_of_range_is_unexplained(spec, hashed):
    got = hashed[2].copy()
    got[0, 0, 0, 0] = 99
    assert compare(spec, hashed, got).worst_margin == float("inf")


def test_masked_tokens_do_not_count(spec, hashed):
    got = hashed[2].copy()
    got[1, :, :, 20:] = 0
    assert compare(spec, hashed, got).flips == 0


def test_near_tie_is_an_explained_flip(spec, hashed):
    query_key, rotations, buckets, mask = hashed
    # Two rotations that score alike within a rounding: the runner-up is as good as the best.
    rotations = rotations.copy()
    best = int(buckets[0, 0, 0, 0]) % FACTORS[0]
    column, runner_up = best % 2, 1 - best % 2
    sign = np.float32(1 + 2**-23)
    rotations[0, :, 0, runner_up] = rotations[0, :, 0, column] * sign
    got = buckets.copy()
    got[0, 0, 0, 0] += (best - column) + runner_up - best
    agreement = compare(spec, (query_key, rotations, buckets, mask), got)
    assert (agreement.flips, agreement.unexplained) == (1, 0)


def test_dense_sequences_are_not_hashed(spec):
    query_key, rotations = np.zeros((1, 8, 16), np.float32), np.zeros((2, 8, 3, 5), np.float32)
    wrong, zeros = np.full((1, 2, 3, 8), 5, np.int32), np.zeros((1, 2, 3, 8), np.int32)
    agreement = compare_buckets(
        0, spec, "float32", wrong, zeros, query_key, rotations, np.ones((1, 8), np.int64)
    )
    assert agreement.hashed == agreement.flips == 0


def test_output_difference_reads_unmasked_elements_only():
    reference = np.zeros((1, 4, 2), np.float32)
    value = reference.copy()
    value[0, 3] = 7
    mask = np.array([[1, 1, 1, 0]])
    assert compare_outputs({"logits": value}, {"logits": reference}, mask) == OutputDifference(0.0, 0.0, 0.0)
    value[0, 2, 1] = -0.5
    assert compare_outputs({"logits": value}, {"logits": reference}, mask).worst == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_output_difference_of_what_is_no_number(bad):
    reference, value = np.zeros((1, 2, 1), np.float32), np.array([[[0.0], [bad]]], np.float32)
    assert compare_outputs({"x": value}, {"x": reference}, np.ones((1, 2), int)).worst == np.inf


def test_output_difference_of_another_shape_is_infinite():
    reference, value = np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 4), np.float32)
    assert compare_outputs({"x": value}, {"x": reference}, np.ones((1, 2), int)).worst == np.inf


def test_classifier_logits_are_not_masked():
    """[batch, labels] where labels equal the sequence length is still not per token."""
    reference, value = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    value[0, 2] = 1
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    assert compare_outputs({"logits": value}, {"logits": reference}, mask).worst == 1
    assert compare_outputs({"start_logits": value}, {"start_logits": reference}, mask).worst == 0


def test_median_over_tokens_of_each_ones_worst():
    """One wrong token of five leaves the median; masked tokens do not count."""
    reference = np.zeros((1, 6, 3), np.float32)
    value = reference.copy()
    value[0, :5, 1] = [0.1, 0.2, 9.0, 0.3, 0.1]
    value[0, 5] = 7.0
    error = compare_outputs({"x": value}, {"x": reference}, np.array([[1, 1, 1, 1, 1, 0]]))
    assert (error.worst, error.median) == pytest.approx((9.0, 0.2))
