"""TensorRT's Python interface, as far as the runtime uses it, on the fake GPU of fake_cuda.py.

An "engine" is a few lines of JSON that name an .onnx file, whose outputs ONNX Runtime computes. What would be
undefined, or an error, with the real one raises `MisuseError`.
"""

from __future__ import annotations

import enum
import json
import math
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.runtimes.tensorrt.fake_cuda import FakeCuda, MisuseError, Operation

MAGIC = b"FAKE ENGINE "
VERSION = "1.7.1.116"
INPUTS = ("input_ids", "attention_mask")
NUMPY_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": np.uint16,
    "INT64": np.int64,
    "INT32": np.int32,
    "BOOL": np.bool_,
}


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    BOOL = 4
    INT64 = 8
    BF16 = 7


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


@dataclass
class EngineFile:
    """What the bytes of a fake engine hold; `outputs` maps a name to the name of a `DataType`, and so do
    `inputs`, where they are others than a whole pass's; `capacity` is that of caches."""

    model: str
    outputs: dict[str, str]
    profiles: list[list[list[int]]]
    plugins: list[str] = field(default_factory=lambda: ["LSHAttention", "LSHBuckets"])
    scratch: list[int] = field(default_factory=lambda: [4096, 65536, 1 << 20])
    embedded: bool = False
    stripped: bool = False
    refittable: bool = True
    input_type: str = "INT64"
    inputs: dict[str, str] = field(default_factory=dict)
    capacity: int = 0
    dimensions: list[str] = field(default_factory=lambda: ["batch", "sequence"])
    warning: str = ""
    fails_to_run: bool = False

    def to_bytes(self) -> bytes:
        return MAGIC + json.dumps(self.__dict__).encode()


@dataclass(frozen=True)
class PluginCreator:
    name: str
    plugin_version: str
    plugin_namespace: str


class PluginRegistry:
    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module
        self.loaded: list[str] = []
        self.creators: set[tuple[str, str, str]] = set()

    @property
    def all_creators(self) -> list[PluginCreator]:
        return [PluginCreator(*creator) for creator in sorted(self.creators)]

    def load_library(self, plugin_path: str) -> object:
        data = Path(plugin_path).read_bytes()
        if not data.startswith(b"\x7fELF"):
            self._module.error(f"Unable to load library: {plugin_path}: invalid ELF header")
            return None
        if self.creators:
            raise MisuseError("the plugins are registered already")
        self.loaded.append(plugin_path)
        names = ("LSHBuckets", "LSHAttention", "LocalAttention", "LSHAttentionStep", "LocalAttentionStep")
        names += ("LSHBucketsStep",)
        self.creators = {(name, "1", "reformer") for name in names}
        return object()


class Runtime:
    def __init__(self, module: FakeTensorRT, logger: ILogger) -> None:
        self._module = module
        self.engine_host_code_allowed = False
        module.loggers.append(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        module = self._module
        if not serialized_engine.startswith(MAGIC):
            module.error("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.")
            return None
        file = EngineFile(**json.loads(serialized_engine[len(MAGIC) :]))
        if file.embedded and not self.engine_host_code_allowed:
            module.error("host code is not allowed")
            return None
        registered = {name for name, _version, _namespace in module.registry.creators}
        if not file.embedded and set(file.plugins) - registered:
            module.error("Cannot deserialize plugin: no creator")
            return None
        if file.warning:
            module.warn(file.warning)
        return Engine(module, file)


class Engine:
    def __init__(self, module: FakeTensorRT, file: EngineFile) -> None:
        self._module = module
        self.file = file
        self.has_weights = not file.stripped
        self.session = onnxruntime.InferenceSession(file.model)
        self.num_optimization_profiles = len(file.profiles)
        self.inputs = file.inputs or dict.fromkeys(INPUTS, file.input_type)
        self._dims = {value.name: value.shape for value in self.session.get_inputs()}
        self._names = (*self.inputs, *file.outputs)
        self.num_io_tensors = len(self._names)
        module.engines.add(self)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[{**self.inputs, **self.file.outputs}[name]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name in self.inputs
        capacities = (1, self.file.capacity, self.file.capacity)
        points = [
            {**dict(zip(self.file.dimensions, shape, strict=True)), "capacity": capacity}
            for shape, capacity in zip(self.file.profiles[profile_index], capacities, strict=True)
        ]
        return [tuple(point.get(dim, dim) for dim in self._dims[name]) for point in points]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self.file.scratch[profile_index]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, how: Any) -> Context:
        if isinstance(how, RuntimeConfig):
            self._module.configs.append(how)
            how = how.strategy
        assert how == ExecutionContextAllocationStrategy.USER_MANAGED
        context = Context(self._module, self)
        self._module.contexts.add(context)
        return context


class RuntimeConfig:
    def __init__(self) -> None:
        self.strategy = ExecutionContextAllocationStrategy.STATIC
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy


class Context:
    """An execution context, with what the real one leaves undefined checked."""

    def __init__(self, module: FakeTensorRT, engine: Engine) -> None:
        self._module = module
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._executed: dict[str, tuple[int, ...]] | None = None
        self.profile_stream = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        self.profile_stream = stream_handle
        self._module.cuda.enqueue(stream_handle, Operation(lambda: None, ()))
        return 0 <= profile_index < self._engine.num_optimization_profiles

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile is None:
            raise MisuseError("a shape is set before the profile")
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self._module.error(f"{name}: {shape} is outside of the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine.inputs:
            return self._shapes.get(name, (-1, -1))
        if self.infer_shapes():
            return (-1, -1, -1)
        if "lengths" in self._engine.inputs:  # of decode.onnx, where a run takes a while
            past = self._shapes.get(name.replace("present", "past"))
            return past or (self._shapes["input_ids"][0], 1, self._engine.session.get_outputs()[0].shape[2])
        zeros = {name: _decode(np.zeros(shape, self._dtype(name))) for name, shape in self._shapes.items()}
        if "attention_mask" in zeros:
            zeros["attention_mask"] += 1
        return self._engine.session.run([name], zeros)[0].shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % 256:
            raise MisuseError(f"the address of {name} is not aligned")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda, engine = self._module.cuda, self._engine
        if not engine.has_weights:
            raise MisuseError("an engine without weights is executed")
        if self._profile is None or self.infer_shapes():
            raise MisuseError("execution before profile and shapes are set")
        if engine.file.fails_to_run:
            self._module.error("Error Code 1: Cuda Runtime (invalid configuration argument)")
            return False
        if cuda.is_capturing(stream_handle) and self._executed != self._shapes:
            raise MisuseError("a capture without a run of the same shapes before")
        names = (*engine.inputs, *engine.file.outputs)
        blocks = [self._block(name) for name in names]
        need = engine.get_device_memory_size_for_profile_v2(self._profile)
        if self._scratch[1] < need:
            raise MisuseError(f"got {self._scratch[1]} bytes of scratch memory, expected {need}")
        blocks.append(cuda.block_of(*self._scratch, "device"))
        cuda.enqueue(stream_handle, self._operation(tuple(blocks)))
        if not cuda.is_capturing(stream_handle):
            self._executed = dict(self._shapes)
        return True

    def _block(self, name: str) -> int:
        if name not in self._addresses:
            raise MisuseError(f"execution before the address of {name} is set")
        size = math.prod(self.get_tensor_shape(name)) * self._dtype(name).itemsize
        return self._module.cuda.block_of(self._addresses[name], size, "device")

    def _dtype(self, name: str) -> np.dtype:
        return np.dtype(NUMPY_TYPES[self._engine.get_tensor_dtype(name).name])

    def _operation(self, blocks: tuple[int, ...]) -> Operation:
        """What is executed later: with the shapes and addresses of now."""
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        types = {name: self._dtype(name) for name in shapes}
        cuda, session, file = self._module.cuda, self._engine.session, self._engine.file
        alive = weakref.ref(self)

        def execute() -> None:
            if alive() is None:
                raise MisuseError("a context is gone before its work is done")
            feeds = {name: _decode(cuda.read(addresses[name], shapes[name], types[name])) for name in shapes}
            for name, value in zip(file.outputs, session.run(list(file.outputs), feeds), strict=True):
                cuda.write(addresses[name], _encode(value, file.outputs[name]))

        return Operation(execute, blocks)


def _decode(values: np.ndarray) -> np.ndarray:
    """An input as the session takes it: bfloat16 as float32."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def _encode(values: np.ndarray, dtype: str) -> bytes:
    """The bytes of an output in the engine's type; bfloat16 is cut off, not rounded."""
    if dtype == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype(NUMPY_TYPES[dtype]).tobytes()


class Refitter:
    def __init__(self, engine: Engine, logger: ILogger) -> None:
        if not engine.file.refittable:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.engine = engine
        self.given = False

    def refit_cuda_engine(self) -> bool:
        self.engine.has_weights = self.given
        return self.given

    def get_missing_weights(self) -> list[str]:
        return [] if self.given else ["table"]


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter = refitter
        self.num_errors = 0

    def refit_from_file(self, model: str) -> bool:
        same = Path(model).read_bytes() == Path(self._refitter.engine.file.model).read_bytes()
        self.num_errors = 0 if same else 1
        self._refitter.given = same
        return same

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "the weights have another shape")


class FakeTensorRT:
    """The module: TensorRT-RTX with `rtx`, else TensorRT, which does not capture CUDA graphs by itself."""

    DataType = DataType
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    ILogger = ILogger
    Refitter = Refitter
    OnnxParserRefitter = OnnxParserRefitter

    def __init__(self, cuda: FakeCuda, *, rtx: bool = False, version: str = VERSION) -> None:
        self.__version__ = version
        self.cuda = cuda
        self.registry = PluginRegistry(self)
        self.loggers: list[ILogger] = []
        self.configs: list[RuntimeConfig] = []
        self.engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        if rtx:
            self.CudaGraphStrategy = CudaGraphStrategy

    def Runtime(self, logger: ILogger) -> Runtime:  # noqa: N802
        return Runtime(self, logger)

    def get_plugin_registry(self) -> PluginRegistry:
        return self.registry

    def error(self, message: str) -> None:
        self.loggers[-1].log(ILogger.Severity.ERROR, message)

    def warn(self, message: str) -> None:
        self.loggers[-1].log(ILogger.Severity.WARNING, message)
