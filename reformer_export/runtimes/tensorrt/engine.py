"""Deserialise an engine that passed the checks: its plugins first, then its weights and its signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reformer_export.artifact.decoding import DECODE_INPUT_NAMES, DECODE_OUTPUT, CacheTensor
from reformer_export.artifact.engine_record import EngineProfile, EngineRecord
from reformer_export.contract import MASK_INPUT
from reformer_export.errors import ArtifactError, RuntimeUnavailableError
from reformer_export.runtimes.onnx_structure import check_onnx_structure
from reformer_export.runtimes.tensorrt.log import MessageStore, open_log
from reformer_export.runtimes.tensorrt.packages import PACKAGES
from reformer_export.runtimes.tensorrt.plugins import load_plugins
from reformer_export.runtimes.tensorrt.preflight import BUILD_AGAIN
from reformer_export.spec import ModelSpec


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

    def check_signature(self, spec: ModelSpec) -> None:
        """ArtifactError unless inputs, outputs and profiles are those of the record and of `spec`."""
        trt, engine = self.trt, self.engine
        if self.inputs != spec.input_names or not set(self.outputs).issuperset(spec.output_names):
            raise self._wrong(
                f"inputs {sorted(self.inputs)} and outputs {sorted(self.outputs)}",
                f"{' and '.join(spec.input_names)}, and {', '.join(spec.output_names)} for {spec.task}",
            )
        integers = spec.input_names[1:] if spec.takes_vectors else spec.input_names
        for name in (*self.inputs, *self.outputs):
            dtypes = (trt.DataType.INT64,) if name in integers else self._float_types()
            if engine.get_tensor_dtype(name) not in dtypes:
                raise self._wrong(
                    f"{name} of type {engine.get_tensor_dtype(name)}", " or ".join(map(str, dtypes))
                )
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise self._wrong(f"{name} in host memory", "it in device memory")
        profiles = tuple(self._profile(i, spec) for i in range(engine.num_optimization_profiles))
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
        types = self.trt.DataType
        dtype = self.engine.get_tensor_dtype(name)
        floats = {types.FLOAT: np.float32, types.HALF: np.float16, types.BF16: np.uint16}
        return np.dtype({**floats, types.INT64: np.int64}[dtype])

    def _float_types(self) -> tuple[Any, ...]:
        types = self.trt.DataType
        return (types.FLOAT, types.HALF, types.BF16)

    def _profile(self, index: int, spec: ModelSpec) -> EngineProfile:
        size = (spec.hidden_size,) if spec.takes_vectors else ()
        inputs, mask = (
            [tuple(shape) for shape in self.engine.get_tensor_profile_shape(name, index)]
            for name in self.inputs
        )
        if inputs != [shape + size for shape in mask]:
            what = f"different shapes of {' and '.join(self.inputs)} in profile {index}"
            raise self._wrong(what, "the same for both")
        return EngineProfile(*mask)

    def _wrong(self, got: str, expected: str) -> ArtifactError:
        return ArtifactError(f"engine {self.record.name}", got, expected, BUILD_AGAIN)

    def close(self) -> None:
        """Drop the engine and its runtime; contexts must be gone before."""
        self.engine = None
        self._runtime = None
