"""The Python packages that a job needs, looked for before its work starts, without importing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Final

from reformer_export.errors import MissingDependencyError

EXTRAS: Final = {
    **dict.fromkeys(
        ("torch", "transformers", "safetensors", "onnx", "onnxscript", "onnx_graphsurgeon"), "export"
    ),
    "onnxruntime": "cpu",
    "reformer_pytorch": "lucidrains",
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("httptools", "prometheus_client", "starlette", "uvicorn"), "serve"),
}
"""A module -> the extra that brings it."""

EXPORTING: Final = ("torch", "transformers", "safetensors", "onnx", "onnxscript")
COMPARING: Final = ("torch", "transformers", "safetensors", "onnx", "onnx_graphsurgeon", "onnxruntime")
COMPARING_LUCIDRAINS: Final = ("reformer_pytorch",)
REPORTING: Final = ("jinja2", "matplotlib")
SERVING: Final = ("httptools", "prometheus_client", "starlette", "uvicorn")


def require_packages(what: str, modules: Sequence[str]) -> None:
    """MissingDependencyError with the pip command that brings those of `modules` which `what` lacks."""
    missing = [module for module in dict.fromkeys(modules) if importlib.util.find_spec(module) is None]
    if not missing:
        return
    extras = ",".join(dict.fromkeys(EXTRAS[module] for module in missing))
    packages = f"package{'s' * (len(missing) > 1)} {', '.join(missing)}"
    fix = f"pip install 'reformer-export[{extras}]'"
    raise MissingDependencyError(what, f"no {packages}", "what it works with", fix)
