"""Values into a session of ONNX Runtime and out of it, whatever their type and wherever they lie.

All runs go this way. Inputs and outputs are bound: an input that lies on the session's device already is not
copied, an output may stay there, and on its way to the host it passes through no second buffer. Types that
numpy does not have, and those that a caller does not want, are cast on the device, by a graph of one node.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.runtimes.cast_graph import CAST_INPUT, CAST_OUTPUT, cast_model
from reformer_export.runtimes.device_arrays import DeviceArray, DeviceInput
from reformer_export.runtimes.options import Device
from reformer_export.runtimes.ort_session import Placement, import_onnxruntime, open_graph_bytes
from reformer_export.runtimes.pinned import PinnedBuffers

FLOAT32: Final = "tensor(float)"
FLOATS: Final = {"float32": FLOAT32, "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}
"""ONNX Runtime's names of the types that artifacts have."""
NUMPY_TYPES: Final[dict[str, Any]] = {
    FLOAT32: np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({name})": np.dtype(name).type for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name).type for name in ("uint8", "uint16", "uint32", "uint64")},
}
"""There is none for bfloat16."""

Feed = NDArray[Any] | DeviceInput


class BoundSession:
    """A session that was opened at `placement`, ready to run; threads may share it.

    `pinned`: host memory that the GPU writes to without a detour; None for ordinary memory.
    """

    def __init__(self, session: Any, placement: Placement, pinned: PinnedBuffers | None = None) -> None:
        self.session = session
        self.device: Device = placement.device
        self._placement = placement
        self._pinned = pinned
        self._casts: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def run(
        self, names: Sequence[str], feeds: Mapping[str, Feed], sizes: Mapping[str, int] | None = None
    ) -> list[NDArray[Any]]:
        """The outputs `names` on the host: float32 for each type of floats, else as they are.

        Args:
            names: the outputs.
            feeds: inputs by name; float32 for one of any type of floats.
            sizes: of the graph's symbolic dimensions, so that memory can be there before the run.
        """
        in_place = [self._output_types[name] == FLOAT32 or not self._is_float(name) for name in names]
        return self._run_to_host(names, feeds, in_place, sizes or {})

    def run_as_is(
        self, names: Sequence[str], feeds: Mapping[str, Feed], sizes: Mapping[str, int] | None = None
    ) -> list[NDArray[Any]]:
        """As `run`, but in the graph's own types, which numpy has to have."""
        return self._run_to_host(names, feeds, [True] * len(names), sizes or {})

    def run_on_device(
        self, names: Sequence[str], feeds: Mapping[str, Feed], as_float32: bool
    ) -> list[DeviceArray]:
        """The outputs where the session left them, floats `as_float32` or in the graph's own type."""
        values = self._run_bound(names, feeds, dict.fromkeys(names, _bind_on(self._placement)))
        if as_float32:
            values = [
                self._cast(value, FLOAT32, _bind_on(self._placement)) if is_float else value
                for value, is_float in zip(values, map(self._is_float, names), strict=True)
            ]
        return [DeviceArray(value, self.device, self) for value in values]

    def _run_to_host(
        self,
        names: Sequence[str],
        feeds: Mapping[str, Feed],
        in_place: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[NDArray[Any]]:
        """Outputs that are `in_place` come to the host as the run ends, the others are float32 on the way."""
        if self._needs_no_binding(names, feeds):
            values = self.session.run(list(names), feeds)
            ready = zip(values, in_place, strict=True)
            return [value if is_ready else value.astype(np.float32) for value, is_ready in ready]
        targets, buffers = {}, {}
        for name, is_ready in zip(names, in_place, strict=True):
            buffers[name] = self._reserve_output(name, sizes) if is_ready else None
            targets[name] = _bind_to(buffers[name], Placement() if is_ready else self._placement)
        values = self._run_bound(names, feeds, targets)
        arrays = []
        for name, is_ready, value in zip(names, in_place, values, strict=True):
            buffer = buffers[name]
            if not is_ready:
                buffer = self._reserve(tuple(value.shape()), np.float32)
                value = self._cast(value, FLOAT32, _bind_to(buffer, Placement()))
            arrays.append(value.numpy() if buffer is None else buffer)
        return arrays

    def _is_float(self, name: str) -> bool:
        """Whether an output is of a type that artifacts have."""
        return self._output_types[name] in FLOATS.values()

    def _needs_no_binding(self, names: Sequence[str], feeds: Mapping[str, Feed]) -> bool:
        """Whether ONNX Runtime's own run does: on the CPU, in types that numpy has. It saves some 50
        microseconds a run."""
        return (
            self.device == "cpu"
            and self._pinned is None
            and all(self._output_types[name] in NUMPY_TYPES for name in names)
            and all(
                isinstance(feed, np.ndarray) and feed.dtype == NUMPY_TYPES.get(self._input_types[name])
                for name, feed in feeds.items()
            )
        )

    def _run_bound(
        self, names: Sequence[str], feeds: Mapping[str, Feed], targets: Mapping[str, _Target]
    ) -> list[Any]:
        binding = self.session.io_binding()
        # What is bound by address has to outlive the run.
        kept = [self._bind_input(binding, name, feed) for name, feed in feeds.items()]
        if any(isinstance(feed, DeviceInput) for feed in feeds.values()):
            binding.synchronize_inputs()  # for whatever the caller has under way on the GPU
        for name in names:
            targets[name](binding, name)
        self.session.run_with_iobinding(binding)
        del kept
        return list(binding.get_outputs())

    def _bind_input(self, binding: Any, name: str, feed: Feed) -> object:
        """Bind an input, in the graph's type; what has to be kept for it."""
        wanted = self._input_types[name]
        if isinstance(feed, DeviceInput):
            if feed.element_type == wanted:
                self._bind_address(binding, name, feed)
                return feed
            value = self._cast(feed, wanted, _bind_on(self._placement))
        elif wanted == FLOATS["bfloat16"]:
            value = self._cast(feed.astype(np.float32, copy=False), wanted, _bind_on(self._placement))
        else:
            array = np.ascontiguousarray(feed, NUMPY_TYPES.get(wanted))
            if name in self._required:
                binding.bind_cpu_input(name, array)
                return array
            # Which refuses to see an input with a default.
            value = import_onnxruntime().OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, value)
        return value

    def _cast(self, value: Any, target: str, bind_output: _Target) -> Any:
        """`value`, an OrtValue, array or DeviceInput, as an OrtValue of the element type `target`."""
        if isinstance(value, np.ndarray):
            source = FLOAT32
        else:
            source = value.element_type if isinstance(value, DeviceInput) else value.data_type()
        if source == target:
            return value
        binding = self._cast_session(source, target).io_binding()
        if isinstance(value, DeviceInput):
            self._bind_address(binding, CAST_INPUT, value)
            binding.synchronize_inputs()
        elif isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value)
            binding.bind_cpu_input(CAST_INPUT, value)
        else:
            binding.bind_ortvalue_input(CAST_INPUT, value)
        bind_output(binding, CAST_OUTPUT)
        self._cast_session(source, target).run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _bind_address(self, binding: Any, name: str, feed: DeviceInput) -> None:
        dtype = NUMPY_TYPES[feed.element_type]
        binding.bind_input(
            name, self.device, self._placement.device_id, dtype, list(feed.shape), feed.address
        )

    def _cast_session(self, source: str, target: str) -> Any:
        with self._lock:
            if (source, target) not in self._casts:
                placement = dataclasses.replace(self._placement, library=None, tf32=False)
                self._casts[source, target] = open_graph_bytes(cast_model(source, target), placement)
            return self._casts[source, target]

    def _reserve_output(self, name: str, sizes: Mapping[str, int]) -> NDArray[Any] | None:
        """Pinned memory for an output whose shape is known before the run; None for ONNX Runtime's own."""
        shape = [sizes.get(size) if isinstance(size, str) else size for size in self._output_shapes[name]]
        dtype = NUMPY_TYPES.get(self._output_types[name])
        if self._pinned is None or dtype is None or None in shape:
            return None
        return self._reserve(tuple(size for size in shape if size is not None), dtype)

    def _reserve(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any] | None:
        return None if self._pinned is None else self._pinned.lease(shape, np.dtype(dtype))

    @functools.cached_property
    def _required(self) -> frozenset[str]:
        """The inputs without a default."""
        return frozenset(value.name for value in self.session.get_inputs())

    @functools.cached_property
    def _input_types(self) -> dict[str, str]:
        inputs = (*self.session.get_inputs(), *self.session.get_overridable_initializers())
        return {value.name: value.type for value in inputs}

    @functools.cached_property
    def _output_types(self) -> dict[str, str]:
        return {value.name: value.type for value in self.session.get_outputs()}

    @functools.cached_property
    def _output_shapes(self) -> dict[str, list[int | str | None]]:
        return {value.name: value.shape for value in self.session.get_outputs()}


_Target = Callable[[Any, str], None]
"""Binds an output of a binding, by name."""


def _bind_on(placement: Placement) -> _Target:
    """To memory of ONNX Runtime's own where the placement is."""
    return lambda binding, name: binding.bind_output(name, placement.device, placement.device_id)


def _bind_to(buffer: NDArray[Any] | None, placement: Placement) -> _Target:
    """To an array of the host, else to memory of ONNX Runtime's own where the placement is."""
    if buffer is None:
        return _bind_on(placement)

    def bind(binding: Any, name: str) -> None:
        shape = list(buffer.shape)
        binding.bind_output(name, "cpu", 0, buffer.dtype.type, shape, buffer.ctypes.data)

    return bind
