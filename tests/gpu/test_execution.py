"""What a caller may rely on around the arithmetic: streams, graphs, workspaces, equal bits."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.gpu.backends import (
    ALL_DEVICES,
    DTYPES,
    NATIVE_NAMES,
    assert_close,
    join,
    open_kernels,
    run_reference,
)
from tests.gpu.cases import Shape, make_case

SHAPE = Shape(1030, rounds=3, other_chunk=128)
EMULATED_SHAPE = Shape(260, heads=1, head_size=16, rounds=2, chunk=32, other_chunk=64)
GUARD_BYTES = 4096
GUARD_VALUE = 0xA5

pytestmark = [
    pytest.mark.parametrize("device", ALL_DEVICES),
    pytest.mark.parametrize("operator", [name for name in NATIVE_NAMES if name != "Linear"]),
]


def assert_same_bits(got, expected):
    assert got.dtype == expected.dtype
    assert torch.equal(got.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))


def make_job(opened, operator, dtype=torch.float16, seed=0):
    """The operator on tensors that lie on the device already: returns its result there, joined."""
    tensors, attributes = make_case(operator, EMULATED_SHAPE if opened.is_emulated else SHAPE, dtype, seed)
    run = getattr(opened.kernels, NATIVE_NAMES[operator])
    return functools.partial(lambda *given: join(run(*given)), *opened.put(tensors), *attributes.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_calls_give_equal_bits(device, operator, dtype):
    job = make_job(open_kernels(device), operator, dtype)
    first = job()
    for _ in range(10):
        assert_same_bits(job(), first)


def test_a_graph_gives_the_bits_of_a_call(device, operator):
    """Captured: so nothing synchronises, allocates or uses the default stream. Replayed on other inputs."""
    opened = open_kernels(device)
    job = make_job(opened, operator)
    replay, target = opened.capture(job)
    replay()
    assert_same_bits(target.cpu(), job().cpu())
    other = make_job(opened, operator, seed=1)
    for tensor, source in zip(job.args, other.args, strict=True):
        if isinstance(tensor, torch.Tensor):
            tensor.copy_(source)
    replay()
    assert_same_bits(target.cpu(), other().cpu())


def test_two_streams_at_once_do_not_disturb_each_other(device, operator):
    opened = open_kernels(device)
    jobs = [make_job(opened, operator, seed=seed) for seed in range(2)]
    expected = [job() for job in jobs]
    rounds = 10 if opened.is_cuda else 1
    for _ in range(rounds):
        for got, wanted in zip(opened.run_together(jobs * 4), expected * 4, strict=True):
            assert_same_bits(got, wanted)


def test_work_is_ordered_with_the_current_stream(device, operator):
    """The inputs are written, and the result read, by other work of the same stream, without a wait."""
    opened = open_kernels(device)
    job = make_job(opened, operator)
    sources = [tensor.clone() for tensor in job.args if isinstance(tensor, torch.Tensor)]

    def write_run_read():
        for tensor, source in zip(job.args, sources, strict=False):
            tensor.zero_()
            if opened.is_cuda:
                torch.cuda._sleep(10_000_000)  # so that a kernel on another stream would come too early
            tensor.copy_(source)
        return job() + 0

    (got,) = opened.run_together([write_run_read])
    assert_same_bits(got, job())


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_nothing_beside_the_workspace_is_touched(device, operator, offset):
    """A workspace of exactly the size that was asked for, of any alignment, full of rubbish."""
    blocks = []

    def allocate(size, where):
        block = torch.full((size + 2 * GUARD_BYTES,), GUARD_VALUE, dtype=torch.uint8, device=where)
        blocks.append((block, size))
        return block[GUARD_BYTES + offset : GUARD_BYTES + offset + size]

    guarded = make_job(open_kernels(device, allocate), operator)()
    assert_same_bits(guarded, make_job(open_kernels(device), operator)())
    for block, size in blocks:
        before, after = block[: GUARD_BYTES + offset], block[GUARD_BYTES + offset + size :]
        assert (before == GUARD_VALUE).all()
        assert (after == GUARD_VALUE).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_need_the_alignment_of_an_element_only(device, operator, dtype):
    opened = open_kernels(device)
    tensors, attributes = make_case(operator, Shape(200, chunk=32, mask="none"), dtype)
    moved = []
    for tensor in opened.put(tensors):
        room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
        moved.append(room[1:].view(tensor.shape).copy_(tensor))
    assert_close(opened.run(operator, moved, attributes), run_reference(operator, tensors, attributes))
