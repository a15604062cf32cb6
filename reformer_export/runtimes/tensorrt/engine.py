"""Deserialise an engine that passed the checks: its plugins first, then its weights and its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from reformer_export.artifact.decoding import DECODE_INPUT_NAMES, DECODE_OUTPUT, CacheTensor
from reformer_export.artifact.engine_record import EngineProfile, EngineRecord
from reformer_export.artifact.signature import Signature
from reformer_export.contract import MASK_INPUT
from reformer_export.errors import ArtifactError, InputError, RuntimeUnavailableError
from reformer_export.runtimes.onnx_structure import check_onnx_structure
from reformer_export.runtimes.tensorrt.log import MessageStore, open_log
from reformer_export.runtimes.tensorrt.packages import PACKAGES
from reformer_export.runtimes.tensorrt.plugins import load_plugins
from reformer_export.runtimes.tensorrt.preflight import BUILD_AGAIN

INTEGER_TYPES: Final = {"bool": "BOOL", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"}
"""TensorRT's names of a manifest's types that are no floats."""
_NAMES: Final = {kind: name for name, kind in INTEGER_TYPES.items()}
FLOAT_TYPES: Final[dict[str, Any]] = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16}
"""And what numpy has for its floats."""


class OpenedEngine:
    """An engine in the GPU's memory, and what running it takes from its runtime.

    Attributes:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        engine: the ICudaEngine.
        inputs: the engine's inputs, the mask last.
        outputs: the engine's outputs.
        store: TensorRT's messages.
        title: the runtime's name and version.
    """

    def __init__(self, trt: Any, record: EngineRecord, data: bytes, plugin_library: Path | None) -> None:
        """Load `data`, the bytes of the engine that `record` describes.

        Args:
            trt: the runtime's module.
            record: the engine's record, which agreed with the machine.
            data: the serialised engine.
            plugin_library: the library with the plugins; None when the engine carries it.
        """
        self.trt = trt
        self.record = record
        log = open_log(trt)
        self.store: MessageStore = log.store
        self.title = f"{PACKAGES[record.runtime].title} {trt.__version__}"
        self._runtime = self._make(trt.Runtime, log)
        if plugin_library is not None:
            before = self.store.mark()
            load_plugins(
                trt, str(plugin_library), record.plugin_layers, lambda: self.store.errors_since(before)
            )
        # The user has allowed it (preflight), and its SHA-256 was that of the record.
        self._runtime.engine_host_code_allowed = record.host_code is not None
        mark = self.store.mark()
        self.engine = self._runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise RuntimeUnavailableError(
                f"engine {record.name}: {self.title} refuses it",
                f"'{self.store.errors_since(mark)}'",
                "an engine it can load",
                f"{BUILD_AGAIN} on this machine",
            )
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        self.outputs = tuple(name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        inputs = (name for name in names if modes[name] != trt.TensorIOMode.OUTPUT)
        self.inputs = tuple(sorted(inputs, key=lambda name: name == MASK_INPUT))
        self.warnings = self.store.warnings_since(mark)

    def refit(self, model: Path) -> None:
        """Put the weights of the ONNX file `model` into an engine that was built without them."""
        check_onnx_structure(model)
        log = open_log(self.trt)
        mark = self.store.mark()
        refitter = self._make(self.trt.Refitter, self.engine, log)
        parser = self._make(self.trt.OnnxParserRefitter, refitter, log)
        if parser.refit_from_file(str(model)) and refitter.refit_cuda_engine():
            return
        reasons = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        missing = [str(name) for name in refitter.get_missing_weights()]
        if missing:
            reasons.append(f"no weights for {', '.join(missing[:4])}")
        raise ArtifactError(
            f"engine {self.record.name}: {self.title} cannot take the weights of {model}",
            f"'{'; '.join(reasons) or self.store.errors_since(mark)}'",
            "the model the engine was built from",
            BUILD_AGAIN,
        )

    def _make(self, maker: Callable[..., Any], *arguments: Any) -> Any:
        """An object of TensorRT's, which its bindings refuse with a TypeError when TensorRT makes none."""
        mark = self.store.mark()
        try:
            return maker(*arguments)
        except TypeError as error:
            raise RuntimeUnavailableError(
                f"engine {self.record.name}: {self.title} made no {maker.__name__}",
                f"'{self.store.errors_since(mark)}'",
                "one",
                f"see `reformer-export doctor`, or {BUILD_AGAIN}",
            ) from error

    def check_signature(self, signature: Signature) -> None:
        """ArtifactError unless inputs, outputs and profiles are those of the record and of the manifest."""
        trt, engine = self.trt, self.engine
        known = {each.name: each.dtype for each in (*signature.inputs, *signature.outputs)}
        inputs = [each.name for each in signature.inputs]
        outputs = [each.name for each in signature.outputs]
        if set(self.inputs) != set(inputs) or not set(self.outputs).issuperset(outputs):
            raise self._wrong(
                f"inputs {sorted(self.inputs)} and outputs {sorted(self.outputs)}",
                f"{' and '.join(inputs)}, and {', '.join(outputs)}",
            )
        for name in (*self.inputs, *self.outputs):
            kind = INTEGER_TYPES.get(known.get(name, ""))
            kinds = FLOAT_TYPES if kind is None else (kind,)
            got = engine.get_tensor_dtype(name)
            if got.name not in kinds:
                raise self._wrong(f"{name} of type {got}", f"DataType.{' or DataType.'.join(kinds)}")
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise self._wrong(f"{name} in host memory", "it in device memory")
        profiles = tuple(self._profile(i, signature) for i in range(engine.num_optimization_profiles))
        if profiles != self.record.profiles:
            raise self._wrong(
                f"the profiles {', '.join(map(str, profiles))}",
                f"{', '.join(map(str, self.record.profiles))} as its record says",
            )

    def check_decode_signature(self, tensors: Sequence[CacheTensor]) -> None:
        """ArtifactError unless inputs, outputs and profiles are those of the record and of a decode.onnx with
        the caches `tensors`."""
        types = self.trt.DataType
        kinds = {"float32": types.FLOAT, "float16": types.HALF, "bfloat16": types.BF16, "int32": types.INT32}
        caches = {name: kinds[each.dtype] for each in tensors for name in (each.input, each.output)}
        tokens = dict(zip(DECODE_INPUT_NAMES, (types.INT64, types.INT32, types.INT32), strict=True))
        expected = {**tokens, **caches, DECODE_OUTPUT: kinds[self.record.dtype]}
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        got = {name: self.engine.get_tensor_dtype(name) for name in names}
        if got != expected or set(self.outputs) != {DECODE_OUTPUT, *(each.output for each in tensors)}:
            raise self._wrong(f"tensors {got}", f"{expected}")
        for name in names:
            if self.engine.get_tensor_location(name) != self.trt.TensorLocation.DEVICE:
                raise self._wrong(f"{name} in host memory", "it in device memory")
        for index, profile in enumerate(self.record.profiles):
            ends = profile.minimum, profile.optimum, profile.maximum
            self._check_profile(index, DECODE_INPUT_NAMES[0], ends)
            points = zip(ends, (1, self.record.longest, self.record.longest), strict=True)
            shapes = [(batch, capacity) for (batch, _), capacity in points]
            for each in tensors:
                self._check_profile(index, each.input, [each.shape_of(*shape) for shape in shapes])

    def _check_profile(self, index: int, name: str, expected: Sequence[tuple[int, ...]]) -> None:
        got = [tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, index)]
        if got != list(expected):
            raise self._wrong(f"{name} of {got} in profile {index}", f"{list(expected)} as its record says")

    def numpy_dtype(self, name: str) -> np.dtype[Any]:
        """What numpy has for a tensor; uint16 for bfloat16, which it does not know."""
        kind = self.engine.get_tensor_dtype(name).name
        return np.dtype(FLOAT_TYPES.get(kind) or _NAMES[kind])

    def is_float(self, name: str) -> bool:
        """Whether a tensor is of a type that artifacts have."""
        return self.engine.get_tensor_dtype(name).name in FLOAT_TYPES

    def _profile(self, index: int, signature: Signature) -> EngineProfile:
        """The sizes of the symbolic dimensions; ArtifactError where the inputs contradict each other."""
        ends = zip(*(self.engine.get_tensor_profile_shape(name, index) for name in self.inputs), strict=True)
        try:
            sizes = [
                signature.bind(dict(zip(self.inputs, map(tuple, shapes), strict=True))) for shapes in ends
            ]
        except InputError as error:
            got = f"{error.what} of {error.got} in profile {index}"
            raise self._wrong(got, error.expected) from error
        return EngineProfile(*(tuple(each.values()) for each in sizes))

    def _wrong(self, got: str, expected: str) -> ArtifactError:
        return ArtifactError(f"engine {self.record.name}", got, expected, BUILD_AGAIN)

    def close(self) -> None:
        """Drop the engine and its runtime; contexts must be gone before."""
        self.engine = None
        self._runtime = None
