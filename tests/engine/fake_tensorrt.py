"""TensorRT's Python interface as far as the builder uses it: two modules, written as files for the building
process, which imports them in place of the real ones.

The fake engine is JSON that tells what the configuration was. What a test wants to go wrong is named in the
environment variable FAKE_TENSORRT.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.libraries.tensorrt import LIBRARY_VARIABLE
from tests.runtimes.tensorrt.engines import write_library

FAILURE_VARIABLE = "FAKE_TENSORRT"

SOURCE = """
import enum, json, os, signal, sys, time
from types import SimpleNamespace

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.14.1")
FAILURE = os.environ.get("FAKE_TENSORRT", "")
if FAILURE == "abort":
    sys.stderr.write("terminate called without an active exception\\n")
    sys.stderr.flush()
    os.abort()
if FAILURE == "leave":
    os._exit(3)
if FAILURE == "raise":
    raise TypeError("nobody expects this")
if FAILURE.startswith("hang "):
    with open(FAILURE[5:], "w") as stream:
        stream.write(str(os.getpid()))
    os.rename(FAILURE[5:], FAILURE[5:] + ".ready")
    time.sleep(600)


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IProgressMonitor:
    pass


BuilderFlag = enum.Enum("BuilderFlag", "REFIT STRIP_PLAN VERSION_COMPATIBLE TF32")
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", "OTHER STRONGLY_TYPED")
HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED")
MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
LayerType = enum.Enum("LayerType", "PLUGIN_V3 OTHER")
PluginCapabilityType = enum.Enum("PluginCapabilityType", "CORE BUILD RUNTIME")
ComputeCapability = enum.Enum("ComputeCapability", "NONE CURRENT SM75 SM80 SM89 SM120")


class IPluginV3Layer:
    @property
    def plugin(self):
        core = SimpleNamespace(plugin_name=self.op_type, plugin_namespace=self.namespace)
        return SimpleNamespace(get_capability_interface=lambda kind: core)


class ILayer:
    def __init__(self, op_type, namespace):
        self.op_type, self.namespace = op_type, namespace
        self.type = LayerType.PLUGIN_V3 if namespace else LayerType.OTHER


class Registry:
    all_creators = []

    def load_library(self, path):
        if FAILURE != "plugin":
            self.all_creators += [
                SimpleNamespace(name=name, plugin_namespace="reformer", plugin_version="1")
                for name in ("LSHBuckets", "TableRead")
            ]


REGISTRY = Registry()
CHANGED = []


def get_plugin_registry():
    return REGISTRY


# Inputs' symbolic dimensions by name, as the parser finds them in a file of that name.
INPUTS = {
    "model.onnx": {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]},
    "decode.onnx": {
        "input_ids": ["batch", "sequence"],
        "lengths": ["batch"],
        "past.0.key": ["batch", 16, 4],
        "past.1.buckets": ["batch", 2, 2, "capacity"],
    },
}


class Tensor:
    def __init__(self, name, dims):
        self.name, self.dims = name, dims
        self.shape = tuple(-1 if isinstance(dim, str) else dim for dim in dims)

    def get_dimension_name(self, axis):
        dim = self.dims[axis]
        return None if FAILURE == "names" or not isinstance(dim, str) else dim


class Network:
    num_inputs = property(lambda self: len(self.inputs))

    def __init__(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.layers = [ILayer("Gather", ""), ILayer("NMS", "other")]
        if FAILURE != "fallback":
            self.layers.append(ILayer("TableRead", "reformer"))

    def get_input(self, index):
        return self.inputs[index]

    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]


class OnnxParser:
    num_errors = 4

    def __init__(self, network, log):
        self.network, self.log = network, log

    def get_error(self, index):
        return SimpleNamespace(
            node_name=lambda: f"node_{index}", node_operator=lambda: "Split", desc=lambda: "no such axis"
        )

    def parse(self, model, path):
        with open(path, "rb") as stream:
            before = stream.read()
        differing = [place for place, byte in enumerate(before) if byte != model[place]]
        CHANGED.extend(differing)
        return len(model) == len(before) and self.parse_from_file(path)

    def parse_from_file(self, path):
        assert os.path.isabs(path) and os.path.isfile(path)
        inputs = INPUTS[os.path.basename(path)]
        self.network.inputs = [Tensor(name, dims) for name, dims in inputs.items()]
        return FAILURE != "parse"


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, *shapes):
        self.shapes[name] = shapes


class Config:
    def __init__(self):
        self.flags, self.profiles, self.calls = {BuilderFlag.TF32}, [], {}
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.builder_optimization_level, self.plugins_to_serialize = 3, []
        self.capabilities, self.cache = [], None

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)
        return -1 if FAILURE == "profile" else len(self.profiles) - 1

    num_compute_capabilities = property(lambda self: len(self.capabilities))

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count):
        self.capabilities = [None] * count

    def set_compute_capability(self, member, index):
        self.capabilities[index] = member.name
        return True

    def set_memory_pool_limit(self, pool, size):
        self.calls[pool.name] = size

    def create_timing_cache(self, content):
        return content

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return cache != b"of another GPU"

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: bytearray(self.cache + b"+1"))


class Builder:
    def __init__(self, log):
        self.log = log

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        assert monitor.step_complete("Building engine", 0)
        self.log.log(ILogger.Severity.WARNING, "a warning\\n of two lines")
        self.log.log(ILogger.Severity.INFO, "nobody reads this")
        if FAILURE == "build":
            sys.stderr.write("[reformer] LSHBuckets: got 3, expected 4\\n")
            sys.stderr.flush()
            sys.stderr.write("[reformer] LSHBuckets: got 3, expected 4\\n")
            sys.stderr.flush()
            self.log.log(ILogger.Severity.ERROR, "Error Code 1:\\n no tactic")
            self.log.log(ILogger.Severity.INTERNAL_ERROR, "no log")
            return None
        if FAILURE == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAILURE == "full":
            raise OSError(28, "No space left on device")
        monitor.phase_finish("Building engine")
        return json.dumps({
            "changed": len(CHANGED),
            "flags": sorted(flag.name for flag in config.flags),
            "profiles": config.profiles,
            "capabilities": config.capabilities,
            "hardware": config.hardware_compatibility_level.name,
            "verbosity": config.profiling_verbosity.name,
            "level": config.builder_optimization_level,
            "plugins": config.plugins_to_serialize,
            "calls": config.calls,
            "salt": os.environ.get("FAKE_TENSORRT_SALT"),
            "cwd": os.listdir("."),
            "libraries": os.environ.get("LD_LIBRARY_PATH"),
        }).encode()


class Runtime:
    def __init__(self, log):
        pass

    def deserialize_cuda_engine(self, plan):
        inspector = SimpleNamespace(get_engine_information=lambda form: f"layers, {form.name}")
        return SimpleNamespace(create_engine_inspector=lambda: inspector)
"""


def install_fake_tensorrt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put both fake packages before the real ones, and a file that says it is the plugin library in its
    place; the library's path."""
    packages = folder / "packages"
    packages.mkdir()
    for module in ("tensorrt", "tensorrt_rtx"):
        (packages / f"{module}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(packages)
    library = write_library(folder)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    monkeypatch.setenv(FAILURE_VARIABLE, "")
    return library
