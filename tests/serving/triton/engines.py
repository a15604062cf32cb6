"""Engines that carry their plugins, for repositories."""

from __future__ import annotations

from typing import Any, Final

from reformer_export.artifact.engine_record import PluginRecord
from reformer_export.libraries.installed import ABI_VERSION

EMBEDDED: Final[dict[str, Any]] = {
    "plugin": PluginRecord("libreformer_tensorrt.so", "0" * 64, ABI_VERSION, "0.1.0", True)
}
"""Fields of the record of one that carries its plugin library."""
