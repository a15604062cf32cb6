"""The TensorRT plugin library as a file, and in the registry of the real TensorRT-RTX (no GPU is needed)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

import reformer_export
from reformer_export.contract import DOMAIN, OPERATORS, VERSION
from reformer_export.errors import RuntimeUnavailableError
from reformer_export.export.bodies import BODIES
from reformer_export.export.bodies.function_body import function_body
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.tensorrt import TensorRTLibrary, find_tensorrt_library
from tests.plugins.elf import find_foreign_libraries, list_exports
from tests.required import skip_unless_required

BODY_OF = {body.name: body for body in BODIES}
PLUGINS = [operator.name for operator in OPERATORS if operator.has_plugin]

# Runs in a process of its own: a plugin library is loaded for good, and may end the process.
REGISTRY_SCRIPT = """
import json, sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
registry = trt.get_plugin_registry()
before = {(c.name, c.plugin_version, c.plugin_namespace) for c in registry.all_creators}
loaded = registry.load_library(sys.argv[1]) is not None
creators = [
    {"name": c.name, "version": c.plugin_version, "namespace": c.plugin_namespace,
     "fields": [field.name for field in c.field_names]}
    for c in registry.all_creators if (c.name, c.plugin_version, c.plugin_namespace) not in before
]
creator = registry.get_creator("LSHBuckets", "1", "reformer")
refused = creator.create_plugin("layer", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD) is None
print(json.dumps({"loaded": loaded, "creators": creators, "refused": refused}))
"""


@pytest.fixture(scope="module")
def library() -> TensorRTLibrary:
    try:
        return find_tensorrt_library()
    except RuntimeUnavailableError as error:
        skip_unless_required(f"{error} (make tensorrt-plugin)")


@pytest.fixture(scope="module")
def registry(library: TensorRTLibrary) -> Any:
    """What TensorRT-RTX's registry says after loading the library, and what was written to stderr."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        skip_unless_required("no tensorrt_rtx: pip install -r tests/requirements.txt")
    command = [sys.executable, "-c", REGISTRY_SCRIPT, str(library.path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return {**json.loads(result.stdout.splitlines()[-1]), "stderr": result.stderr}


def test_says_what_it_is(library: TensorRTLibrary) -> None:
    assert library.version == reformer_export.__version__
    assert library.abi_version == ABI_VERSION
    assert library.cuda_architectures
    assert list(library.cuda_architectures) == sorted(library.cuda_architectures)
    assert library.path.read_bytes().count(b"reformer-tensorrt-plugin abi=") == 1


def test_exports_two_functions_only(library: TensorRTLibrary) -> None:
    assert list_exports(library.path) == ["getCreators", "setLoggerFinder"]


def test_needs_only_the_system(library: TensorRTLibrary) -> None:
    """Neither TensorRT nor CUDA: whichever loads it is the one it works with."""
    assert find_foreign_libraries(library.path) == []


def test_registry_finds_the_creators(registry: Any) -> None:
    assert registry["loaded"]
    creators = {creator["name"]: creator for creator in registry["creators"]}
    assert sorted(creators) == sorted(PLUGINS)
    for creator in creators.values():
        assert (creator["namespace"], creator["version"]) == (DOMAIN, str(VERSION))


def test_fields_are_the_nodes_attributes(registry: Any) -> None:
    """TensorRT's parser passes on only the attributes a creator names."""
    for creator in registry["creators"]:
        body = function_body(BODY_OF[creator["name"]], 18)
        attributes = {*body.attribute, *(attribute.name for attribute in body.attribute_proto)}
        assert set(creator["fields"]) == attributes - {"plugin_namespace", "plugin_version"}


def test_a_refused_node_says_why(registry: Any) -> None:
    assert registry["refused"]
    assert "LSHBuckets: attribute num_heads is missing" in registry["stderr"]
