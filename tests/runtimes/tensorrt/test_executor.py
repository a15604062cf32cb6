"""Memory, CUDA graphs, threads and closing, on a fake GPU that raises on what a real one forgives not."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from reformer_export.errors import InputError
from reformer_export.runtimes.tensorrt.cuda import CudaError
from tests.runtimes.artifacts import next_token_table
from tests.runtimes.tensorrt.engines import (
    REQUESTS,
    count_graphs,
    make_artifact,
    open_fake,
)
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import CudaGraphStrategy, FakeTensorRT


def test_a_result_is_not_overwritten_by_the_next(tmp_path: Path, library: Path) -> None:
    model = open_fake(make_artifact(tmp_path, library), library)
    first = model.run([[5]])["logits"]
    kept = first.copy()
    model.run([[9]])
    np.testing.assert_array_equal(first, kept)


def test_a_profile_s_scratch_memory_is_taken_when_it_is_used(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda)
    assert cuda.used("device") == 0
    model.run([[5]])
    small = cuda.used("device")
    assert 4096 < small < 65536
    model.run([list(range(60))])
    assert 65536 < cuda.used("device") < 65536 + small, "both profiles share one block"


def test_no_room_for_a_larger_profile_leaves_the_smaller_usable(tmp_path: Path, library: Path) -> None:
    """The block is given up before the larger one is asked for: the smaller profile must get another."""
    cuda = FakeCuda(capacity=50_000)
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda, cuda_graphs=True)
    expected = model.run([[5, 6]])["logits"]
    model.run([[5, 6]])
    assert count_graphs(model) == 1
    with pytest.raises(CudaError, match=r"cudaMalloc: got 'out of memory' .*smaller batch") as caught:
        model.run([list(range(60))])
    assert caught.value.exit_status == 2
    for _ in range(3):
        np.testing.assert_array_equal(model.run([[5, 6]])["logits"], expected)


def test_room_to_spare_is_given_up_when_memory_is_short(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda(capacity=2**30)
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda)
    model.run([[5] * 10])
    cuda.capacity = cuda.used("device") + 16  # one more token fits, half as many again do not
    assert model.run([[5] * 10 + [6]])["logits"].argmax() == 7


def test_graphs_are_bounded_and_the_last_ones_stay(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda, cuda_graphs=True)
    for length in (64, *range(1, 50)):
        for _ in range(2):
            model.run([[5] * length])
    assert count_graphs(model) == len(cuda.graphs) == 32
    cuda.log.clear()
    model.run([[5] * 49])
    assert cuda.log == ["activate", "launch_graph", "synchronize"]
    model.run([[5] * 18])  # the one asked for longest ago
    model.run([[5] * 17])
    assert "end_capture" in cuda.log, "the graph of a shape asked for long ago made room"
    cuda.log.clear()
    model.run([[5] * 18])
    model.run([[5] * 19])
    assert cuda.log.count("launch_graph") == 1, "which made room for that of 17 in its turn"


def test_a_capture_that_fails_turns_graphs_off_and_says_so(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda, cuda_graphs=True)
    model.run([[5, 6]])
    cuda.failures["end_capture"] = "cudaErrorStreamCaptureInvalidated"
    for _ in range(3):
        assert model.run([[5, 6]])["logits"].argmax() == 7
    assert cuda.log.count("begin_capture") == 1
    (note,) = model.notes
    assert note.startswith("CUDA graphs are off")
    assert "cudaErrorStreamCaptureInvalidated" in note


def test_tensorrt_rtx_captures_its_graphs_itself(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda, rtx=True)
    out = make_artifact(tmp_path, library, runtime="tensorrt-rtx")
    model = open_fake(out, library, trt=trt, runtime="tensorrt-rtx", cuda_graphs=True)
    for _ in range(3):
        assert model.run([[5]])["logits"].argmax() == 6
    assert [config.cuda_graph_strategy for config in trt.configs] == [CudaGraphStrategy.WHOLE_GRAPH_CAPTURE]
    assert "begin_capture" not in cuda.log
    assert model.providers[0].startswith("TensorRT-RTX 1.7.1.116, ")


def test_close_releases_everything(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    with open_fake(make_artifact(tmp_path, library), library, trt=trt, cuda_graphs=True) as model:
        for ids, mask in (*REQUESTS, *REQUESTS):
            model.run(ids, mask)
        assert (len(trt.contexts), len(trt.engines)) == (2, 1)
        held = model._executor, model._executor._opened if model._executor else None
    assert (cuda.memory, cuda.streams, cuda.graphs) == ({}, {}, {})
    assert (len(trt.contexts), len(trt.engines)) == (0, 0), f"even while {held} are held, as by a traceback"
    model.close()
    with pytest.raises(InputError, match=r"a request after close\(\)"):
        model.run([[5]])


def test_a_forgotten_runtime_is_released_when_it_is_collected(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda)
    model.run([[5]])
    assert cuda.used("device") > 0
    del model
    gc.collect()
    assert (cuda.memory, cuda.streams) == ({}, {})


def test_a_failure_while_closing_does_not_hide_the_error_before_it(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    out = make_artifact(tmp_path, library)

    def use(failing: str, error: Exception | None) -> None:
        with open_fake(out, library, cuda=cuda) as model:
            model.run([[5]])
            cuda.failures[failing] = "cudaErrorIllegalAddress"
            if error is not None:
                raise error

    with pytest.raises(ZeroDivisionError):
        use("free_pinned", ZeroDivisionError())
    assert cuda.streams == {}, "what comes after the failure is still released"
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress"):
        use("free", None)


def test_a_graph_that_cannot_be_destroyed_does_not_keep_the_memory(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda, cuda_graphs=True)
    for _ in range(2):
        model.run([[5]])
    cuda.failures["destroy_graph"] = "cudaErrorUnknown"
    with pytest.raises(CudaError, match="cudaErrorUnknown"):
        model.close()
    assert (cuda.memory, cuda.streams) == ({}, {})


def test_threads_take_turns(tmp_path: Path, library: Path) -> None:
    cuda = FakeCuda()
    cuda.delay = 0.001
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda, cuda_graphs=True)
    table = next_token_table(258)
    wrong: list[object] = []

    def ask(first: int) -> None:
        try:
            for length in (1, 20, 3, 20, 3):
                got = model.run([[first] * length])["logits"][0, 0]
                if not np.array_equal(got, table[first]):
                    wrong.append((first, length))
        except BaseException as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


@pytest.mark.parametrize("call", ["copy_to_device", "copy_to_host", "synchronize", "allocate_pinned"])
def test_a_cuda_failure_is_an_error_and_the_next_request_is_well(
    tmp_path: Path, library: Path, call: str
) -> None:
    cuda = FakeCuda()
    model = open_fake(make_artifact(tmp_path, library), library, cuda=cuda)
    cuda.failures[call] = "cudaErrorLaunchFailure"
    with pytest.raises(CudaError, match="cudaErrorLaunchFailure"):
        model.run([[5, 6]])
    assert model.run([[5, 6]])["logits"].argmax() == 7
