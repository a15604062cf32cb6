"""ModelSpec + weights -> model.onnx and manifest.json."""

from reformer_export.export.exporter import ExportOptions, write_artifact
from reformer_export.export.graph import DEFAULT_OPSET, trace_model

__all__ = ["DEFAULT_OPSET", "ExportOptions", "trace_model", "write_artifact"]
