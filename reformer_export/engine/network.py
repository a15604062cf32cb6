"""An ONNX file -> TensorRT's network, with the operators as plugin layers. Runs in the building process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.contract import DOMAIN, LINEAR, PLUGIN_NAMESPACE
from reformer_export.engine.num_hashes import build_in_num_hashes
from reformer_export.engine.request import BuildRequest
from reformer_export.errors import EngineError
from reformer_export.runtimes.onnx_file import import_onnx

SHOWN_PARSER_ERRORS: Final = 3


@dataclass(frozen=True)
class ParsedNetwork:
    """A network, the builder that owns it and the parser that owns its weights: all three live together."""

    builder: Any
    parser: Any
    network: Any
    plugin_layers: dict[str, int]


def parse_network(trt: Any, log: Any, request: BuildRequest) -> ParsedNetwork:
    """The strongly typed network of `request.model`.

    Raises:
        EngineError: TensorRT refuses a node, or runs an operator otherwise than with its plugin.
    """
    builder = trt.Builder(log)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, log)
    if not _parse(parser, request):
        raise EngineError(
            request.model,
            f"'{_parser_errors(parser, log)}' from TensorRT's parser",
            "a model that it takes",
            "export the checkpoint again with this version",
        )
    plugin_layers = count_plugin_layers(trt, network)
    if plugin_layers != request.operators:
        raise EngineError(
            f"network of {Path(request.model).name}",
            f"plugin layers {_describe_counts(plugin_layers)}",
            f"{_describe_counts(request.operators)} as the model has nodes",
            "TensorRT would run function bodies in their place, export the checkpoint again with this "
            "version",
        )
    return ParsedNetwork(builder, parser, network, plugin_layers)


def _parse(parser: Any, request: BuildRequest) -> bool:
    """Whether TensorRT takes the model, with the number of hashes that is to be built in, and the bodies of
    its Linear nodes in their place."""
    num_hashes, path = request.options.num_hashes, Path(request.model)
    if num_hashes is None and not request.inlines:
        return bool(parser.parse_from_file(request.model))
    data = path.read_bytes() if num_hashes is None else build_in_num_hashes(path, num_hashes)
    # The path is where external data is looked for.
    return bool(parser.parse(_inline_linears(data) if request.inlines else data, request.model))


def _inline_linears(model: bytes) -> bytes:
    """The bytes of a model, every Linear node its body, in which weights are read as TensorRT reads int8: by
    DequantizeLinear alone. MissingDependencyError without the package onnx.

    TensorRT's parser reads a body anew for each node that calls it, with the names that it has, and refuses
    the second layer of a name where a layer dequantises weights.
    """
    onnx = import_onnx()
    from onnx.inliner import inline_selected_functions

    parsed = onnx.load_model_from_string(model)
    for function in parsed.functions:
        if (function.domain, function.name) != (DOMAIN, LINEAR.name):
            continue
        one = onnx.helper.make_node("Constant", [], ["one_for_weights"], value_float=1.0)
        (cast,) = (node for node in function.node if node.op_type == "Cast" and node.input[0] == "weight")
        read = onnx.helper.make_node("DequantizeLinear", ["weight", "one_for_weights"], cast.output)
        cast.CopyFrom(read)
        function.node.insert(0, one)
    serialised: bytes = inline_selected_functions(parsed, [(DOMAIN, LINEAR.name)]).SerializeToString()
    return serialised


def count_plugin_layers(trt: Any, network: Any) -> dict[str, int]:
    """The network's layers that this project's plugins run, by operator."""
    counts: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.PLUGIN_V3:
            layer.__class__ = trt.IPluginV3Layer  # TensorRT hands out the base class
            core = layer.plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
            if core.plugin_namespace == PLUGIN_NAMESPACE:
                counts[core.plugin_name] += 1
    return dict(sorted(counts.items()))


def _describe_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _parser_errors(parser: Any, log: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    texts = [
        f"node {error.node_name() or '?'} ({error.node_operator() or '?'}): {error.desc()}"
        for error in errors[:SHOWN_PARSER_ERRORS]
    ]
    more = len(errors) - len(texts)
    return "; ".join(texts) + (f"; and {more} more" if more else "") or log.cause()
