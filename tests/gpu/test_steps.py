"""The step operators' kernels: against the references and the whole operators, in place, in one graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export import ops
from tests.gpu.backends import ALL_DEVICES, DEVICES, DTYPES, NATIVE_NAMES, assert_close, open_kernels
from tests.gpu.backends import run_reference as run_reference_on_torch
from tests.gpu.cases import SHAPES, Shape, make_case
from tests.ops.backends import INPUT_NAMES
from tests.ops.step_cases import WHOLE
from tests.ops.step_cases import make_case as draw_step

OPERATORS = tuple(WHOLE)
CUDA_DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), "emulated"]
LONG = 65536
LONG_ON_CPU = 4096

pytestmark = pytest.mark.parametrize("operator", OPERATORS)


def draw_tensors(operator, seed, dtype, **options):
    """A random call: steps, prompts and resting rows of unlike lengths."""
    case = draw_step(np.random.default_rng(seed), operator, **options)
    tensors = [torch.from_numpy(value.copy()) for value in case.inputs.values()]
    return [x.to(dtype) if x.is_floating_point() else x for x in tensors], case.attributes


def caches_of(operator, tensors):
    return [x for name, x in zip(INPUT_NAMES[operator], tensors, strict=True) if name.startswith("past_")]


def cut(tensor, begin, end):
    """Tokens of T [B, L, W], of buckets [B, H, R, L], or of a mask [B, L]."""
    return tensor[..., begin:end] if tensor.dtype == torch.int32 else tensor[:, begin:end]


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_steps_are_the_reference(device, operator, shape, dtype):
    case = make_case(operator, shape, dtype)
    assert_close(open_kernels(device).run(operator, *case), run_reference_on_torch(operator, *case))


@pytest.mark.parametrize("device", ALL_DEVICES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES))
def test_any_call_is_the_reference(device, operator, seed, dtype):
    case = draw_tensors(operator, seed, dtype)
    assert_close(open_kernels(device).run(operator, *case), run_reference_on_torch(operator, *case))


@pytest.mark.parametrize("device", ALL_DEVICES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES))
def test_in_place_is_the_same(device, operator, seed, dtype):
    opened = open_kernels(device)
    tensors, attributes = draw_tensors(operator, seed, dtype)
    copied = opened.run(operator, tensors, attributes)
    given_tensors = opened.put(tensors)
    run = getattr(opened.kernels, NATIVE_NAMES[operator])
    results = run(*given_tensors, *attributes.values(), in_place=True)
    for got, cache in zip(results[1:], caches_of(operator, given_tensors), strict=True):
        assert got.data_ptr() == cache.data_ptr()
    for got, wanted in zip(results, copied, strict=True):
        assert torch.equal(got.cpu(), wanted)


@pytest.mark.parametrize("device", CUDA_DEVICES)
def test_rows_that_do_not_fit_rest(device, operator):
    """Without a word: nobody on the host sees the lengths of steps."""
    opened = open_kernels(device)
    tensors, attributes = make_case(operator, Shape(40, batch=4, chunk=8), torch.float32)
    lengths, new_lengths = tensors[-2:]
    lengths[:3] = torch.tensor([-1, 2**31 - 1, 3])
    new_lengths[2] = 2
    tensors[-2:] = [lengths, new_lengths]
    results = opened.run(operator, tensors, attributes)
    assert not results[0][:3].any()
    assert results[0][3].all()
    for got, past in zip(results[1:], caches_of(operator, tensors), strict=True):
        assert torch.equal(got[:3], past[:3])
        assert not torch.equal(got[3], past[3])


@pytest.mark.parametrize("device", ALL_DEVICES)
def test_lengths_of_prompts_are_looked_at(device, operator):
    opened = open_kernels(device)
    tensors, attributes = draw_tensors(operator, 0, torch.float32, lengths=([4, 0], [1, 3]))
    tensors[-1] = torch.tensor([2, 3], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"row 0 holds 4 tokens and gets 2, expected .* at most 1"):
        opened.run(operator, tensors, attributes)


@pytest.mark.parametrize("device", ALL_DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_graph_decodes(device, operator, dtype):
    """Recorded once: the lengths on the device say where each step is, and the caches stay where they are."""
    opened = open_kernels(device)
    shape = Shape(40, batch=2, head_size=16, chunk=4, mask="none")
    (*sequence, mask), attributes = make_case(WHOLE[operator], shape, dtype)
    step = opened.put(make_case(operator, shape, dtype)[0])
    lengths = step[-2].zero_()
    run = getattr(opened.kernels, NATIVE_NAMES[operator])
    replay, output = opened.capture(lambda: run(*step, *attributes.values(), in_place=True)[0])
    for position in range(shape.length):
        lengths.fill_(position)
        for target, source in zip(step, sequence, strict=False):
            target.copy_(cut(source, position, position + 1))
        replay()
        prefix = [cut(x, 0, position + 1) for x in (*sequence, mask)]
        whole = run_reference_on_torch(WHOLE[operator], prefix, attributes)
        assert_close(output.cpu(), whole[:, -1:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_contexts(device, operator, dtype):
    """The last token of the whole operator's kernels."""
    opened = open_kernels(device)
    length = (LONG if opened.is_cuda else LONG_ON_CPU) - 3
    sequence, attributes = make_case(WHOLE[operator], Shape(length, heads=2, mask="none"), dtype)
    *fresh, _ = sequence
    whole = opened.run(WHOLE[operator], sequence, attributes)
    ring = 2 * attributes["chunk_length"]
    slots = torch.arange(length - 1 - ring, length - 1)
    order = slots[torch.argsort(slots % ring)]
    is_lsh = operator == "LSHAttentionStep"
    last = [cut(x, length - 1, length) for x in fresh]
    past = fresh if is_lsh else [x[:, order] for x in fresh[1:]]
    lengths = [torch.tensor([value], dtype=torch.int32) for value in (length - 1, 1)]
    got = opened.run(operator, [*last, *past, *lengths], attributes)
    assert_close(got[0], whole[:, -1:])


@pytest.mark.parametrize("device", DEVICES)
def test_the_custom_operators_take_the_kernels(device, operator):
    opened = open_kernels(device)
    tensors, attributes = make_case(operator, Shape(257), torch.float32)
    custom = getattr(ops, NATIVE_NAMES[operator])
    got = custom(*opened.put(tensors), *attributes.values())
    for one, wanted in zip(got, opened.run(operator, tensors, attributes), strict=True):
        assert one.device == opened.device
        assert torch.equal(one.cpu(), wanted)
