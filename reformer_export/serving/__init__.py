"""Serve artifacts over HTTP: the open inference protocol v2, text generation, metrics.

One front process (asyncio) checks requests, lets them wait in bounded queues and joins them into batches; a
worker process for each artifact runs them. Nothing here imports torch or transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reformer_export.libraries.packages import SERVING, require_packages
from reformer_export.runtimes.options import options_from_fields
from reformer_export.serving.options import ServeFields, ServeOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from reformer_export.serving.app import Server

__all__ = ["ServeOptions", "serve"]


def serve(
    options: ServeOptions | None = None,
    on_ready: Callable[[str, Server], None] = lambda url, server: None,
    **fields: Unpack[ServeFields],
) -> int:
    """Serve artifacts over HTTP until SIGTERM or SIGINT; how many accepted requests were cut off then.

    reformer_export.serve(artifacts=["OUT", "small=OTHER"], port=9000)

    Args:
        options: what, where and within which limits.
        on_ready: told the address, once all models can be asked.
        fields: in place of `options`, fields of `ServeOptions`.

    Raises:
        MissingDependencyError: the packages of the extra `serve` are not installed.
        ReformerExportError: an artifact, an option or the address cannot be used.
    """
    require_packages("serve", SERVING)
    from reformer_export.serving.listen import serve_until_signal

    return serve_until_signal(options_from_fields(ServeOptions, options, fields), on_ready)
