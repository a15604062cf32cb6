"""Values in and out of a session in every type, on the CPU: its interface is that of the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from onnx import TensorProto, helper

from reformer_export.runtimes import ort_binding
from reformer_export.runtimes.device_arrays import device_input
from reformer_export.runtimes.ort_binding import BoundSession
from reformer_export.runtimes.ort_session import Placement, open_session
from reformer_export.runtimes.pinned import PinnedBuffers
from tests.runtimes.cuda_stand_in import HostPages

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
FLOATS = npst.arrays(
    np.float32, npst.array_shapes(max_dims=3, max_side=5), elements=st.floats(-6e4, 6e4, width=32)
)


def open_identity(folder: Path, element_type: int, shape: Sequence[Any] | None = None) -> BoundSession:
    """y = x and, int64, n = k, bound on the CPU."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["k"], ["n"])]
    values = [helper.make_tensor_value_info(name, element_type, shape) for name in "xy"]
    counts = [helper.make_tensor_value_info(name, TensorProto.INT64, ["a", "b"]) for name in "kn"]
    graph = helper.make_graph(nodes, "identity", [values[0], counts[0]], [values[1], counts[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(folder / "identity.onnx"))
    return BoundSession(open_session(folder / "identity.onnx"), Placement())


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BoundSession]:
    return {
        dtype: open_identity(tmp_path_factory.mktemp(dtype), element_type)
        for dtype, element_type in TYPES.items()
    }


def rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """As torch rounds them."""
    return torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()


@pytest.mark.parametrize("dtype", TYPES)
@given(values=FLOATS)
def test_floats_go_in_and_come_out_as_float32(
    identities: dict[str, BoundSession], dtype: str, values: NDArray[np.float32]
) -> None:
    counts = np.array([[3, 4]])
    got, same = identities[dtype].run(["y", "n"], {"x": values, "k": counts})
    assert (got.dtype, same.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(got, rounded(values, dtype))
    np.testing.assert_array_equal(same, counts)


def test_what_bfloat16_alone_has(identities: dict[str, BoundSession]) -> None:
    values = np.array([1.0, -2.5, 3e38, 0.0, 1 + 2**-7, 1 + 2**-8, np.inf, -np.inf, np.nan], np.float32)
    (got,) = identities["bfloat16"].run(["y"], {"x": values, "k": np.zeros((1, 1), np.int64)})
    np.testing.assert_array_equal(got, rounded(values, "bfloat16"))


def test_as_they_are(identities: dict[str, BoundSession]) -> None:
    values, counts = np.array([[1.5, 2.25]], np.float32), np.array([[3, 4]])
    got, same = identities["float16"].run_as_is(["y", "n"], {"x": values, "k": counts})
    assert (got.dtype, same.dtype) == (np.float16, np.int64)
    np.testing.assert_array_equal(got, values)


def test_an_array_that_is_not_contiguous_is_read_as_it_is_seen(identities: dict[str, BoundSession]) -> None:
    values, counts = np.arange(12, dtype=np.float32).reshape(3, 4).T[::-1], np.arange(6).reshape(2, 3).T
    for session in identities.values():
        got, same = session.run(["y", "n"], {"x": values, "k": counts})
        np.testing.assert_array_equal(got, values)
        np.testing.assert_array_equal(same, counts)


@pytest.mark.parametrize("dtype", TYPES)
def test_outputs_stay_on_the_device(identities: dict[str, BoundSession], dtype: str) -> None:
    values = np.array([[1.5, -2.0]], np.float32)
    feeds = {"x": values, "k": np.zeros((1, 1), np.int64)}
    (own,) = identities[dtype].run_on_device(["y"], feeds, as_float32=False)
    (wide,) = identities[dtype].run_on_device(["y"], feeds, as_float32=True)
    assert (own.dtype, own.device, wide.dtype) == (dtype, "cpu", "float32")
    assert torch.from_dlpack(own).dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(torch.from_dlpack(own).float().numpy(), values)
    np.testing.assert_array_equal(np.from_dlpack(wide), values)
    assert "DeviceArray(shape=(1, 2)" in repr(own)
    assert not hasattr(own, "__cuda_array_interface__")
    with pytest.raises(BufferError):
        own.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        own.__dlpack__(dl_device=(2, 0))


def test_an_array_on_the_device_is_read_where_it_lies(identities: dict[str, BoundSession]) -> None:
    values = np.array([[1.5, -2.0]], np.float32)
    counts = torch.tensor([[7, 8]])
    given_k = device_input("k", counts)
    assert (given_k.shape, given_k.element_type) == ((1, 2), "tensor(int64)")
    counts[0, 0] = 9  # after it was given: no copy was made
    got, same = identities["float32"].run(["y", "n"], {"x": device_input("x", values), "k": given_k})
    np.testing.assert_array_equal(got, values)
    np.testing.assert_array_equal(same, [[9, 8]])
    (narrow,) = identities["float32"].run(
        ["n"], {"x": values, "k": device_input("k", np.array([[5, -6]], np.int32))}
    )
    assert (narrow.dtype, narrow.tolist()) == (np.int64, [[5, -6]])


def test_memory_is_there_before_the_run_where_the_shape_is_known(tmp_path: Path) -> None:
    pages = HostPages()
    opened = open_identity(tmp_path, TensorProto.FLOAT, ["batch", 2])
    session = BoundSession(opened.session, Placement(), PinnedBuffers(pages))
    feeds = {"x": np.ones((3, 2), np.float32), "k": np.zeros((1, 1), np.int64)}
    known, unknown = session.run(["y", "n"], feeds, {"batch": 3})
    assert list(pages.held) == [known.ctypes.data], "n has dimensions that nobody named"
    assert (known.tolist(), unknown.tolist()) == ([[1.0, 1.0]] * 3, [[0]])
    (elsewhere,) = session.run(["y"], feeds)
    assert elsewhere.ctypes.data not in pages.held


def test_threads_share_a_session_and_its_casts(
    identities: dict[str, BoundSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = BoundSession(identities["bfloat16"].session, Placement())
    opened: list[bytes] = []
    real = ort_binding.open_graph_bytes
    monkeypatch.setattr(
        ort_binding,
        "open_graph_bytes",
        lambda model, placement: (opened.append(model), real(model, placement))[1],
    )

    def run(number: int) -> bool:
        values = np.full((4, 100), number, np.float32)
        (got,) = session.run(["y"], {"x": values, "k": np.zeros((1, 1), np.int64)})
        return np.array_equal(got, values)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(100)))
    assert len(opened) == 2  # in, and out
