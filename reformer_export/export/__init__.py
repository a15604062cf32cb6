"""ModelSpec + weights -> model.onnx and manifest.json."""

from reformer_export.export.exporter import ExportOptions, write_artifact
from reformer_export.export.graph import trace_model

__all__ = ["ExportOptions", "trace_model", "write_artifact"]
