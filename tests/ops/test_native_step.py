"""The step operators' CPU kernels: memory, refusals, and what a batch may not change."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from reformer_export.ops.native_kernels import NativeKernels
from tests.ops.backends import (
    INPUT_NAMES,
    NATIVE_NAMES,
    OUTPUT_NAMES,
    REFERENCES,
    make_model,
    require_native,
    run_native_onnxruntime,
    run_native_torch,
    run_onnxruntime_body,
    run_reference,
)
from tests.ops.step_cases import (
    WHOLE,
    draw_attributes,
    expected_output,
    make_case,
)

OPERATORS = tuple(WHOLE)
CACHES = {"LSHAttentionStep": slice(3, 6), "LocalAttentionStep": slice(3, 5)}
"""Places of the caches among the inputs; lengths and new_lengths follow."""


def call_in_place(operator, case, dtype=None):
    """(what the kernel gave, the caches' own tensors)."""
    tensors = [torch.from_numpy(value.copy()) for value in case.inputs.values()]
    if dtype is not None:
        tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    function = getattr(NativeKernels(require_native()), NATIVE_NAMES[operator])
    results = function(*tensors, *case.attributes.values(), in_place=True)
    return results, tensors[CACHES[operator]]


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_in_place_is_the_same(operator, seed):
    case = make_case(np.random.default_rng(seed), operator)
    results, caches = call_in_place(operator, case)
    copied = run_native_torch(operator, case.inputs, case.attributes)
    for got, expected in zip((results[0], *caches), copied, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_half_storage_is_the_reference(operator, dtype, seed):
    case = make_case(np.random.default_rng(seed), operator)
    tensors = [torch.from_numpy(value) for value in case.inputs.values()]
    tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    expected = REFERENCES[operator](*tensors, *case.attributes.values())
    got, _ = call_in_place(operator, case, dtype)
    tolerance = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]  # one step at 1
    torch.testing.assert_close(got[0], expected[0], atol=tolerance, rtol=tolerance)
    for cache, wanted in zip(got[1:], expected[1:], strict=True):
        assert torch.equal(cache, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threads=st.integers(1, 4))
def test_a_row_does_not_depend_on_the_others(operator, seed, threads):
    """Bit for bit, on any number of threads."""
    case = make_case(np.random.default_rng(seed), operator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        together = run_native_torch(operator, case.inputs, case.attributes)
    for row in range(len(case.sequences)):
        inputs = {name: value[row : row + 1] for name, value in case.inputs.items()}
        alone = run_native_torch(operator, inputs, case.attributes)
        for got, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(got[row : row + 1], expected)


@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_prompt_is_the_whole_operator(operator, seed):
    """Bit for bit: the same kernel."""
    rng = np.random.default_rng(seed)
    new = [int(x) for x in rng.integers(2, 60, 3)]
    case = make_case(rng, operator, lengths=([0, 0, 0], new))
    got = run_native_torch(operator, case.inputs, case.attributes)[0]
    for row, sequence in enumerate(case.sequences):
        inputs = sequence | {"attention_mask": np.ones((1, new[row]), np.int32)}
        whole = run_native_torch(WHOLE[operator], inputs, case.attributes)
        np.testing.assert_array_equal(got[row, : new[row]], whole[0])
        assert not got[row, new[row] :].any()


@pytest.mark.parametrize("dense", [700, 1100, 2**31 - 1])
def test_dense_prompts_among_longer_ones(dense):
    """Their windows are wider than those of the longest prompt, by which memory is measured otherwise."""
    rng = np.random.default_rng(dense % 1000)
    attributes = draw_attributes(rng, "LSHAttentionStep") | {"chunk_length": 2, "num_chunks_before": 1}
    attributes |= {"padding_multiple": 512, "padding_threshold": 0, "dense_threshold": dense}
    case = make_case(
        rng, "LSHAttentionStep", attributes=attributes, lengths=([0, 0, 0, 600], [1300, 1024, 300, 1])
    )
    got = run_native_torch("LSHAttentionStep", case.inputs, attributes)
    np.testing.assert_allclose(got[0], expected_output("LSHAttentionStep", case), atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("count", [1, 3, 64, 8 * 16, 64 * 128, 2**31 - 1])
@pytest.mark.parametrize("before", [1, 3])
def test_long_sequences_of_any_buckets(count, before):
    """Windows of hundreds of keys among thousands of tokens: crowded buckets, and those of one token."""
    rng = np.random.default_rng(count % 2**32 + before)
    attributes = draw_attributes(rng, "LSHAttentionStep") | {"num_chunks_before": before}
    attributes |= {"chunk_length": 64, "padding_multiple": 128, "padding_threshold": 64}
    attributes["dense_threshold"] = 64
    case = make_case(
        rng, "LSHAttentionStep", attributes=attributes, lengths=([2047, 2048, 3000, 100], [1] * 4)
    )
    for row, sequence in enumerate(case.sequences):
        skewed = (rng.random(sequence["buckets"].shape) ** 3 * count).astype(np.int64)
        sequence["buckets"][:] = np.minimum(skewed, count - 1)
        held = case.inputs["lengths"][row]
        case.inputs["past_buckets"][row, ..., :held] = sequence["buckets"][0, ..., :held]
        case.inputs["new_buckets"][row, ..., :1] = sequence["buckets"][0, ..., held:]
    got = run_native_torch("LSHAttentionStep", case.inputs, case.attributes)
    expected = expected_output("LSHAttentionStep", case)
    np.testing.assert_allclose(got[0], expected, atol=5e-6, rtol=5e-6)


ORT_REFUSALS = (Fail, InvalidArgument, RuntimeException)
REFUSED = {
    "several on a filled cache": ({"new_lengths": 2}, "holds 4 tokens and gets 2, .*not empty at most 1"),
    "negative": ({"lengths": -1}, "holds -1 tokens"),
    "more than given": ({"lengths": 0, "new_lengths": 9}, "new tokens of at most 3"),
    "beyond the cache": ({"lengths": 5}, "together at most 5"),
}


def make_refused(operator, wrong):
    case = make_case(np.random.default_rng(0), operator, lengths=([1, 4, 0], [1, 1, 3]))
    for name in [name for name in case.inputs if name.startswith("past_")]:
        if operator == "LSHAttentionStep":
            case.inputs[name] = (
                case.inputs[name][..., :5] if name == "past_buckets" else case.inputs[name][:, :5]
            )
    for name in ("query_key", "query", "key", "value", "new_buckets"):
        if name in case.inputs:
            value = case.inputs[name]
            case.inputs[name] = value[..., :3] if name == "new_buckets" else value[:, :3]
    for name, value in wrong.items():
        case.inputs[name][1] = value
    return case


@pytest.mark.parametrize(
    ("operator", "wrong"),
    [
        (operator, wrong)
        for operator in OPERATORS
        for wrong in REFUSED
        if operator == "LSHAttentionStep" or wrong != "beyond the cache"  # a ring holds any number
    ],
)
def test_a_refused_call_leaves_the_caches(operator, wrong):
    values, message = REFUSED[wrong]
    case = make_refused(operator, values)
    tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in case.inputs.values()]
    kept = [tensor.clone() for tensor in tensors]
    with pytest.raises(ValueError, match=message):
        getattr(NativeKernels(require_native()), NATIVE_NAMES[operator])(
            *tensors, *case.attributes.values(), in_place=True
        )
    assert all(map(torch.equal, tensors, kept))
    for run in (run_native_onnxruntime, run_onnxruntime_body):
        with pytest.raises(ORT_REFUSALS):
            run(operator, case.inputs, case.attributes)


def test_a_negative_bucket_leaves_the_caches():
    case = make_refused("LSHAttentionStep", {})
    case.inputs["new_buckets"][2, 0, 0, 2] = -1
    tensors = [torch.from_numpy(np.ascontiguousarray(value)) for value in case.inputs.values()]
    kept = [tensor.clone() for tensor in tensors]
    with pytest.raises(ValueError, match="new_buckets has a negative value"):
        NativeKernels(require_native()).lsh_attention_step(*tensors, *case.attributes.values(), in_place=True)
    assert all(map(torch.equal, tensors, kept))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_chunks_after", 1, "num_chunks_after is 1, expected 0 to 0"),
        ("is_causal", False, "is_causal is 0, expected 1 to 1"),
        ("padding_multiple", 5, "padding_multiple is 5, expected a multiple of chunk_length 4"),
        ("padding_threshold", 8, "padding_threshold is 8, expected 0 to 4"),
    ],
)
def test_kernels_refuse_what_no_step_can_be(operator, name, value, message):
    attributes = draw_attributes(np.random.default_rng(1), operator) | {"chunk_length": 4}
    attributes |= {"padding_multiple": 4, "padding_threshold": 4}
    attributes |= {"dense_threshold": 4} if operator == "LSHAttentionStep" else {}
    case = make_case(np.random.default_rng(0), operator, attributes=attributes)
    with pytest.raises(ValueError, match=message):
        run_native_torch(operator, case.inputs, attributes | {name: value})


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell resident memory")
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shared", [True, False])
def test_onnxruntime_copies_no_cache_that_is_bound_twice(operator, shared):
    """Caches of memory that was never touched: a page that is written is one more page in memory."""
    heads, size, tokens = 2, 16, 2**17
    attributes = draw_attributes(np.random.default_rng(0), operator) | {"num_heads": heads}
    attributes |= {"chunk_length": 64, "padding_multiple": 64, "padding_threshold": 64}
    attributes |= {"dense_threshold": 64} if operator == "LSHAttentionStep" else {}
    attributes["num_chunks_before"] = 1 if operator == "LSHAttentionStep" else tokens // 64 - 1
    rng = np.random.default_rng(1)
    fresh = {n: rng.standard_normal((1, 1, heads * size)).astype(np.float32) for n in ("a", "b", "c")}
    names = INPUT_NAMES[operator]
    inputs = dict(zip(names, fresh.values(), strict=False))
    if operator == "LSHAttentionStep":
        inputs["new_buckets"] = np.zeros((1, heads, 1, 1), np.int32)
    inputs |= {"lengths": np.array([70], np.int32), "new_lengths": np.array([1], np.int32)}
    shapes = {
        name: ((1, heads, 1, tokens), np.int32)
        if "buckets" in name
        else ((1, tokens, heads * size), np.float32)
        for name in names[CACHES[operator]]
    }
    empty = {name: np.zeros([0] * len(shape), dtype) for name, (shape, dtype) in shapes.items()}
    model = make_model(operator, {name: (inputs | empty)[name] for name in names}, attributes)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(require_native().path))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def allocate():
        return {
            name: np.frombuffer(mmap.mmap(-1, 4 * int(np.prod(shape))), dtype).reshape(shape)
            for name, (shape, dtype) in shapes.items()
        }

    past = allocate()
    present = past if shared else allocate()
    binding = session.io_binding()
    for name, value in (inputs | past).items():
        binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    outputs = OUTPUT_NAMES[operator]
    output = np.empty_like(fresh["a"])
    for name, value in zip(outputs, (output, *present.values()), strict=True):
        binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
    before = resident_bytes()
    session.run_with_iobinding(binding)
    grown = resident_bytes() - before
    caches = sum(value.nbytes for value in past.values())
    assert (grown < caches / 8) if shared else (grown > caches / 2)
    for name, value in zip(outputs[1:], present.values(), strict=True):
        written = value[..., 70] if "buckets" in name else value[:, 70]
        source = {"present_query_key": "query_key", "present_key": "key", "present_value": "value"}
        if "buckets" not in name:
            np.testing.assert_array_equal(written, inputs[source[name]][:, 0])
    inputs |= {
        name: value[..., :100] if "buckets" in name else value[:, :100] for name, value in past.items()
    }
    if operator == "LSHAttentionStep":
        expected = run_reference(operator, {name: inputs[name] for name in names}, attributes)
        np.testing.assert_allclose(output, expected[0], atol=5e-6, rtol=5e-6)
