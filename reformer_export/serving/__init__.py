"""Serve artifacts over HTTP: the open inference protocol v2, text generation, metrics.

One front process (asyncio) checks requests, lets them wait in bounded queues and joins them into batches; a
worker process for each artifact runs them. Nothing here imports torch or transformers.
"""

from __future__ import annotations

from reformer_export.serving.options import ServeOptions

__all__ = ["ServeOptions"]
