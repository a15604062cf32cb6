"""ModelSpec + weights -> model.onnx and manifest.json."""

from reformer_export.export.exporter import ExportOptions, write_artifact
from reformer_export.export.graph import DEFAULT_OPSET, check_opset, trace_model

__all__ = ["DEFAULT_OPSET", "ExportOptions", "check_opset", "trace_model", "write_artifact"]
