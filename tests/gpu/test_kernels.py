"""The kernels against the reference, through torch tensors and the C interface."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export import ops
from tests.gpu.backends import ALL_DEVICES, DEVICES, DTYPES, assert_close, open_kernels, run_reference
from tests.gpu.cases import SHAPES, Shape, make_buckets, make_case, make_lsh

OPERATORS = ("LSHBuckets", "LSHAttention", "LocalAttention")
ATTENTIONS = OPERATORS[1:]
FACTORS = [(2,), (16,), (64, 32), (4, 6, 2), (510,), ()]
LONG = 65536
LONG_ON_CPU = 4096
"""The CPU only tries the test; it has long lengths of its own in tests/ops."""


def is_near_tie(case, differs):
    """Whether each bucket that differs comes from scores that float32 sums in another order may swap."""
    (query_key, rotations, _), attributes = case
    heads = query_key.double().unflatten(-1, (attributes["num_heads"], -1))
    scores = torch.einsum("blhd,hdrs->bhrls", heads, rotations.double())[differs]
    first, margin = 0, torch.full((len(scores),), torch.inf, dtype=torch.float64)
    for factor in attributes["num_buckets"] or [2 * rotations.shape[3]]:
        part = scores[:, first : first + factor // 2]
        best, second = torch.cat([part, -part], dim=-1).topk(2, dim=-1).values.unbind(-1)
        margin = torch.minimum(margin, (best - second) / best.abs())
        first += factor // 2
    return bool((margin < 1e-5).all())


def test_a_near_tie_is_told_from_an_error():
    x = torch.tensor([[[1.0, 1.0 + 1e-7], [1.0, 0.5]]])
    case = [x, torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 2, dtype=torch.int32)], {}
    case[1].update(num_heads=1, num_buckets=[4])
    assert is_near_tie(case, torch.tensor([[[[True, False]]]]))
    assert not is_near_tie(case, torch.tensor([[[[False, True]]]]))


def assert_same_buckets(got, expected, case):
    differs = got != expected
    assert got.dtype == torch.int32
    assert differs.float().mean() <= 1e-4
    assert is_near_tie(case, differs)


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("shape", SHAPES[:9:2], ids=lambda shape: shape.name)
def test_buckets_are_the_reference(device, shape, factors, dtype):
    case = make_buckets(shape, dtype, factors)
    assert_same_buckets(
        open_kernels(device).run("LSHBuckets", *case), run_reference("LSHBuckets", *case), case
    )


@pytest.mark.parametrize("device", ALL_DEVICES)
def test_ties_take_the_lowest_index(device):
    x = torch.tensor([[[0, 0], [1, 1], [-1, -1]]], dtype=torch.float32)  # scores 0; all 2; all -2
    tensors = [x, torch.ones(1, 2, 1, 3), torch.ones(1, 3, dtype=torch.int32)]
    got = open_kernels(device).run("LSHBuckets", tensors, {"num_heads": 1, "num_buckets": [6]})
    assert got.tolist() == [[[[0, 0, 3]]]]


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", ATTENTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_attention_is_the_reference(device, shape, operator, dtype):
    case = make_case(operator, shape, dtype)
    assert_close(open_kernels(device).run(operator, *case), run_reference(operator, *case))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", ATTENTIONS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    shape=st.builds(
        Shape,
        length=st.integers(1, 150),
        batch=st.integers(1, 2),
        heads=st.integers(1, 3),
        head_size=st.integers(1, 72),
        rounds=st.integers(1, 4),
        chunk=st.integers(1, 40),
        before=st.integers(0, 3),
        after=st.integers(0, 3),
        causal=st.booleans(),
        other_chunk=st.integers(1, 6),
        mask=st.sampled_from(["none", "holes", "all"]),
        rules=st.sampled_from(["transformers", "reformer-pytorch"]),
    ),
)
def test_any_attention_is_the_reference(device, operator, shape, dtype, seed):
    case = make_case(operator, shape, dtype, seed)
    assert_close(open_kernels(device).run(operator, *case), run_reference(operator, *case))


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("count", [1, 2, 2049, 2**31 - 2])
def test_any_buckets_are_sorted(device, count):
    """One bucket (the order of the positions), and more than one digit of a radix sort."""
    case = make_lsh(Shape(515, heads=1, head_size=16, chunk=16), torch.float32, count=count)
    assert_close(open_kernels(device).run("LSHAttention", *case), run_reference("LSHAttention", *case))


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_first_causal_token_attends_to_itself(device, dtype):
    (x, _, buckets, mask), attributes = make_lsh(Shape(130, rounds=3, mask="none"), dtype)
    case = [x, x, buckets, mask], attributes
    got = open_kernels(device).run("LSHAttention", *case)
    # Rounded logsumexp near -1e5: the rounds' weights sum to a little less, or more, than 1.
    torch.testing.assert_close(got[0, 0].float(), x[0, 0].float(), rtol=1.5e-2, atol=1e-3)
    assert_close(got, run_reference("LSHAttention", *case))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_long_sequences(device, operator, dtype):
    length = LONG if device == "cuda" else LONG_ON_CPU
    case = make_case(operator, Shape(length - 3, heads=1, chunk=64), dtype)
    got, expected = open_kernels(device).run(operator, *case), run_reference(operator, *case)
    if operator == "LSHBuckets":
        assert_same_buckets(got, expected, case)
    else:
        assert_close(got, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_custom_operators_take_the_kernels(device, operator):
    """`reformer_export.ops` on tensors of the device gives the kernels' bits."""
    opened = open_kernels(device)
    tensors, attributes = make_case(operator, Shape(257), torch.float32)
    names = {"LSHBuckets": ops.lsh_buckets, "LSHAttention": ops.lsh_attention}
    custom = names.get(operator, ops.local_attention)
    got = custom(*opened.put(tensors), *attributes.values())
    assert got.device == opened.device
    assert torch.equal(got.cpu(), opened.run(operator, tensors, attributes))


@pytest.mark.parametrize("device", ALL_DEVICES)
def test_what_the_kernels_refuse_is_said(device):
    opened = open_kernels(device)
    tensors, attributes = make_lsh(Shape(64), torch.float32)
    with pytest.raises(ValueError, match="num_heads"):
        opened.run("LSHAttention", tensors, {**attributes, "num_heads": 3})
    with pytest.raises(ValueError, match="dtype"):
        opened.run("LSHAttention", [tensors[0], tensors[1].half(), *tensors[2:]], attributes)


@pytest.mark.gpu
def test_heads_too_wide_for_cuda_are_refused_and_left_to_the_reference():
    opened = open_kernels("cuda")
    case = make_lsh(Shape(70, heads=1, head_size=257), torch.float32)
    with pytest.raises(ValueError, match="257"):
        opened.run("LSHAttention", *case)
    got = ops.lsh_attention(*opened.put(case[0]), *case[1].values()).cpu()
    assert_close(got, run_reference("LSHAttention", *case))


@pytest.mark.gpu
def test_tensors_of_two_devices_are_refused():
    opened = open_kernels("cuda")
    tensors, attributes = make_lsh(Shape(64), torch.float32)
    query_key, *others = opened.put(tensors)
    with pytest.raises(ValueError, match="got value on cpu"):
        opened.kernels.lsh_attention(query_key, tensors[1], *others[1:], *attributes.values())
