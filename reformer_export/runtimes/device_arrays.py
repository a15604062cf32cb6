"""Arrays that lie where a session computes: as inputs without a copy, as outputs that stay.

Other libraries' arrays come and go by DLPack, those of libraries without it by `__cuda_array_interface__`
(version 3): neither torch nor any other library is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.artifact.signature import SEQUENCE, GraphTensor
from reformer_export.errors import InputError, one_line
from reformer_export.runtimes.inputs import check_length
from reformer_export.runtimes.options import Device
from reformer_export.runtimes.ort_session import import_onnxruntime

_ON_THE_HOST: Final = (1, 3)
"""kDLCPU and kDLCUDAHost of dlpack.h."""
_ON_THE_GPU: Final = 2
"""kDLCUDA."""
_MANAGED: Final = 13
"""kDLCUDAManaged: memory that the GPU reads too."""

_HOST_TYPES: Final = (np.ndarray, list, tuple)
_INTEGERS: Final = {"tensor(int64)": "int64", "tensor(int32)": "int32"}
_FLOATS: Final = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""What can be bound by its address."""
_TYPES: Final = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""ONNX Runtime's names of types, where they are not tensor(NAME)."""


class DeviceArray:
    """An output that lies where it was computed; `torch.from_dlpack(x)`, `cupy.from_dlpack(x)` and the like
    look at it without a copy. Its values are there: no stream need be waited for.

    Attributes:
        shape: sizes of its axes.
        dtype: "float32", "float16", "bfloat16" or numpy's name of another type.
        device: "cuda" (the GPU that the model runs on) or "cpu".
    """

    def __init__(self, value: Any, device: Device, owner: object) -> None:
        """Of an `onnxruntime.OrtValue`; `owner` is kept as long as this is."""
        self._value = value
        self._owner = owner
        self.shape: tuple[int, ...] = tuple(value.shape())
        kind = value.data_type()
        self.dtype: str = _TYPES.get(kind, kind.removeprefix("tensor(").removesuffix(")"))
        self.device = device

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device})"

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule, which keeps the memory alive."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("got a wish for a copy, expected one for the memory itself; copy the result")
        return self._value._get_c_value().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, index = self._value._get_c_value().__dlpack_device__()
        return int(kind), int(index)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3; AttributeError on the CPU, and for bfloat16, which it does not know."""
        if self.device != "cuda" or self.dtype == "bfloat16":
            raise AttributeError(f"no __cuda_array_interface__ of {self.dtype} on {self.device}")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self._value.data_ptr(), False),
            "strides": None,
            "stream": None,
        }


@dataclass(frozen=True)
class DeviceInput:
    """A contiguous array on a session's device.

    `element_type`: ONNX Runtime's name of it; `address`: of its first element; `kept`: what has to be kept
    until it has been read.
    """

    shape: tuple[int, ...]
    element_type: str
    address: int
    kept: object


def device_input(name: str, values: Any, device_id: int = 0) -> DeviceInput:
    """The input `name`, an array on the session's device, which is GPU `device_id`; InputError when it
    cannot be bound as it is."""
    if not hasattr(values, "__dlpack__"):
        return _from_cuda_array_interface(name, values)
    kind, index = values.__dlpack_device__()
    if kind not in (*_ON_THE_HOST, _ON_THE_GPU, _MANAGED) or index != device_id:
        raise _not_bindable(name, f"an array on device {index} of DLPack's kind {kind}")
    onnxruntime = import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        value = onnxruntime.OrtValue(state.OrtValue.from_dlpack(values.__dlpack__()))
    except Exception as error:  # BufferError, TypeError and RuntimeError, as the library of the array has it
        raise _not_bindable(name, f"'{one_line(error)}'") from error
    return DeviceInput(tuple(value.shape()), value.data_type(), int(value.data_ptr()), value)


def _from_cuda_array_interface(name: str, values: Any) -> DeviceInput:
    described = values.__cuda_array_interface__
    shape, typestr = tuple(described["shape"]), described["typestr"]
    dtype = np.dtype(typestr)
    contiguous = tuple(dtype.itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    if described.get("strides") not in (None, contiguous):
        raise _not_bindable(name, f"strides {described['strides']}")
    return DeviceInput(shape, f"tensor({dtype.name})", int(described["data"][0]), values)


def _not_bindable(name: str, got: str) -> InputError:
    fix = "make it contiguous there, choose the GPU with `device_id`, or give an array of the host"
    return InputError(name, got, "a contiguous array on the GPU that the model runs on", fix)


def is_on_gpu(device: Device, given: Mapping[str, object]) -> bool:
    """Whether the inputs, by name, lie on the GPU, for a model on `device`; InputError where that does not
    fit."""
    if all(isinstance(values, _HOST_TYPES) for values in given.values()):
        return False
    places = {name: _place_of(values) for name, values in given.items()}
    for name, place in places.items():
        if place == "cuda" and device == "cpu":
            fix = 'copy it to the host, or open the model in ONNX Runtime with `provider="cuda"`'
            raise InputError(name, "an array on a GPU", "one of the host, which this runtime takes", fix)
    if len(set(places.values())) == 2:
        on_gpu, other = (next(name for name in places if places[name] == each) for each in ("cuda", "cpu"))
        fix = f"copy {other} to the GPU"
        raise InputError(on_gpu, f"an array on a GPU, and {other} on the host", "all at one place", fix)
    return "cuda" in places.values()


def _place_of(values: object) -> Device:
    if isinstance(values, _HOST_TYPES):
        return "cpu"
    if hasattr(values, "__dlpack_device__"):
        return "cpu" if values.__dlpack_device__()[0] in _ON_THE_HOST else "cuda"
    return "cuda" if hasattr(values, "__cuda_array_interface__") else "cpu"


def prepare_device_inputs(
    manifest: Manifest, given: Mapping[str, Any], device_id: int = 0
) -> dict[str, DeviceInput | NDArray[np.int64]]:
    """The inputs, by name, on the session's device, to bind as they are; a sequence's mask is made on the
    host where there is none.

    Their values are not looked at: that would wait for the GPU. An id outside of the vocabulary reads
    another one's row or zeros (core/providers/cuda/tensor/gather_impl.cu).

    Raises:
        InputError: the types or shapes do not fit the model, or an array is not contiguous.
    """
    feeds: dict[str, DeviceInput | NDArray[np.int64]] = {}
    for tensor in manifest.inputs:
        if tensor.name in given:
            feed = device_input(tensor.name, given[tensor.name], device_id)
            _check_device_type(tensor, feed)
            feeds[tensor.name] = feed
        else:
            feeds[tensor.name] = np.ones(feeds[manifest.inputs[0].name].shape[:2], np.int64)
    sizes = manifest.signature.bind({name: feed.shape for name, feed in feeds.items()})
    if not manifest.is_custom:
        check_length(manifest.spec, sizes[SEQUENCE])
    return feeds


def _check_device_type(tensor: GraphTensor, given: DeviceInput) -> None:
    """InputError unless the type of `given` is the graph's, or one that is cast to it."""
    element_type = tensor.dtype.replace("float64", "double")
    types = {f"tensor({element_type})": tensor.dtype}
    if tensor.dtype == "int64":
        types = _INTEGERS
    elif tensor.dtype in ("float32", "float16", "bfloat16"):
        types = _FLOATS
    if given.element_type not in types:
        got, fix = f"{given.element_type} on the GPU", "convert it there"
        raise InputError(tensor.name, got, " or ".join(types.values()), fix)
