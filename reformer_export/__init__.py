"""Take a trained PyTorch Reformer (LSH attention) to production: export, verify, build, run, measure.

    import reformer_export

    reformer_export.export_checkpoint("models/kjv-bytes", "OUT")       # a folder, or a hub id
    report = reformer_export.verify_artifact("OUT", lengths=(1, 64, 1000))
    with reformer_export.load("OUT") as model:
        outputs = model.run([[5, 6, 7]])             # {"logits": float32 [batch, sequence, vocab_size]}

What the command line can do, these functions can. Importing the package imports no torch, no transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reformer_export.batch import run_files
    from reformer_export.engine import build_engine
    from reformer_export.libraries.build import build_libraries
    from reformer_export.runtimes import load
    from reformer_export.serving import serve
    from reformer_export.serving.triton.repository import write_triton_repository
    from reformer_export.workflows.bench import bench_artifact
    from reformer_export.workflows.export import export_checkpoint
    from reformer_export.workflows.export_module import export_module
    from reformer_export.workflows.verify import verify_artifact

__version__ = "0.1.0"

_HOME = {
    "load": "runtimes",
    "export_checkpoint": "workflows.export",
    "export_module": "workflows.export_module",
    "verify_artifact": "workflows.verify",
    "build_engine": "engine",
    "build_libraries": "libraries.build",
    "bench_artifact": "workflows.bench",
    "run_files": "batch",
    "serve": "serving",
    "write_triton_repository": "serving.triton.repository",
}
"""The room of each public function, which is imported when it is asked for."""

__all__ = [
    "__version__",
    "bench_artifact",
    "build_engine",
    "build_libraries",
    "export_checkpoint",
    "export_module",
    "load",
    "run_files",
    "serve",
    "verify_artifact",
    "write_triton_repository",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """What completion shall offer, imported or not."""
    return sorted(__all__)
