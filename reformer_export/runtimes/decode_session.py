"""decode.onnx in ONNX Runtime, on caches that it reads and writes where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_INPUT_NAMES, DECODE_OUTPUT, CacheTensor
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import ArtifactError
from reformer_export.runtimes.cache_buffers import CacheBuffers
from reformer_export.runtimes.cast_graph import ELEMENT_TYPES
from reformer_export.runtimes.ort_session import Placement, import_onnxruntime
from reformer_export.runtimes.widen import widen

_ONNX_TYPES: Final = {
    "float32": ELEMENT_TYPES["tensor(float)"],
    "float16": ELEMENT_TYPES["tensor(float16)"],
    "bfloat16": ELEMENT_TYPES["tensor(bfloat16)"],
    "int32": ELEMENT_TYPES["tensor(int32)"],
}
_HOST_TYPES: Final[dict[str, Any]] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""What logits come to the host as; bfloat16, which numpy has not, as its bits."""


class BoundCall:
    """A call of the graph on some neighbouring rows of caches, to be made again and again.

    `ids` int64 [batch, sequence], `lengths` and `new_lengths` int32 [batch]: what the next `run` reads;
    `buffers`: the caches.
    """

    def __init__(
        self,
        session: DecodeSession,
        buffers: CacheBuffers,
        first_row: int,
        ids: NDArray[np.int64],
        logits: NDArray[Any],
    ) -> None:
        batch = len(ids)
        self.ids = ids
        self.lengths = np.zeros(batch, np.int32)
        self.new_lengths = np.zeros(batch, np.int32)
        self._session = session
        self.buffers = buffers  # which has to outlive the binding
        self._logits = logits[:batch]
        self._binding = session.session.io_binding()
        self._first_row = first_row
        self._bind_host_inputs()
        self._bind_caches()
        self._bind_outputs()

    def _bind_host_inputs(self) -> None:
        """Where the graph runs on a GPU, they are copied there as they are bound."""
        host: tuple[NDArray[Any], ...] = (self.ids, self.lengths, self.new_lengths)
        for name, values in zip(DECODE_INPUT_NAMES, host, strict=True):
            where = (values.dtype.type, list(values.shape), values.ctypes.data)
            self._binding.bind_input(name, "cpu", 0, *where)

    def _bind_caches(self) -> None:
        session = self._session
        if session.num_hashes is not None:
            count = np.array([session.num_hashes], np.int64)
            value = import_onnxruntime().OrtValue.ortvalue_from_numpy(count)
            self._binding.bind_ortvalue_input(NUM_HASHES_INPUT, value)
        for index, tensor in enumerate(self.buffers.tensors):
            self._binding.bind_input(tensor.input, *self._place(index))

    def _bind_outputs(self) -> None:
        """The logits to the host, the caches onto the past ones or, not in place, to memory of the run's."""
        session, logits = self._session, self._logits
        kind, shape = _ONNX_TYPES[session.dtype], list(logits.shape)
        self._binding.bind_output(DECODE_OUTPUT, "cpu", 0, kind, shape, logits.ctypes.data)
        for index, tensor in enumerate(self.buffers.tensors):
            place = self._place(index)  # of which device and index alone say: anywhere there
            self._binding.bind_output(tensor.output, *(place if session.is_in_place else place[:2]))

    def _place(self, index: int) -> tuple[str, int, int, list[int], int]:
        """Device, its index, element type, shape and address of the rows of a cache."""
        placement, buffers = self._session.placement, self.buffers
        tensor = buffers.tensors[index]
        shape = list(tensor.shape_of(len(self.ids), buffers.capacity))
        address = buffers.address(index, self._first_row)
        return placement.device, placement.device_id, _ONNX_TYPES[tensor.dtype], shape, address

    def run(self) -> NDArray[np.float32]:
        """Float32 [batch, vocab_size]: the logits of each row's last new token. The caches have the new
        tokens when this returns, and no token less than before when it raises."""
        if self._session.placement.device != "cpu":
            self._bind_host_inputs()
        self._session.session.run_with_iobinding(self._binding)
        if not self._session.is_in_place:
            self._take_outputs()
        return widen(self._logits[:, 0])

    def _take_outputs(self) -> None:
        """Let the outputs' caches be the next inputs'."""
        buffers, batch = self.buffers, len(self.ids)
        values = self._binding.get_outputs()[1:]
        for index, (tensor, value) in enumerate(zip(buffers.tensors, values, strict=True)):
            target = buffers.address(index, self._first_row)
            buffers.memory.copy(target, value.data_ptr(), tensor.nbytes(batch, buffers.capacity))
        buffers.memory.wait()
        self._binding.clear_binding_outputs()
        self._bind_outputs()


class DecodeSession:
    """A session of decode.onnx that was opened at `placement`.

    Attributes:
        tensors: the caches, in the order of the graph's inputs.
        dtype: of the logits and the caches, as the session computes.
        num_hashes: rounds of hashing; None where the graph leaves no choice.
        is_in_place: whether one buffer may be bound as past and present: native operators write the new
            tokens only, while function bodies read the past after they have begun to write.
    """

    def __init__(
        self,
        session: Any,
        placement: Placement,
        tensors: Sequence[CacheTensor],
        vocab_size: int,
        num_hashes: int | None,
    ) -> None:
        self.session = session
        self.placement = placement
        self.tensors = tuple(tensors)
        self.vocab_size = vocab_size
        self.num_hashes = num_hashes
        self.dtype = next(tensor.dtype for tensor in tensors if tensor.dtype != "int32")
        self.is_in_place = placement.library is not None
        self._logits = np.zeros((0, 1, vocab_size), _HOST_TYPES[self.dtype])  # of whichever call runs

    def bind(self, buffers: CacheBuffers, first_row: int, ids: NDArray[np.int64]) -> BoundCall:
        """A call on the rows from `first_row` on, with `ids` int64 [batch, sequence] as its new tokens."""
        if len(ids) > len(self._logits):
            rows = max(len(ids), 2 * len(self._logits))
            self._logits = np.zeros((rows, 1, self.vocab_size), _HOST_TYPES[self.dtype])
        return BoundCall(self, buffers, first_row, ids, self._logits)


def check_decode_signature(model: Path, session: Any, tensors: Sequence[CacheTensor]) -> None:
    """ArtifactError unless a session of the file `model` takes and gives such caches."""
    inputs = [value.name for value in session.get_inputs() if value.name != NUM_HASHES_INPUT]
    outputs = [value.name for value in session.get_outputs()]
    expected_inputs = [*DECODE_INPUT_NAMES, *(tensor.input for tensor in tensors)]
    expected_outputs = [DECODE_OUTPUT, *(tensor.output for tensor in tensors)]
    for got, expected in ((inputs, expected_inputs), (outputs, expected_outputs)):
        if got != expected:
            raise ArtifactError(model, f"{got}", f"{expected}", "export the checkpoint again")
