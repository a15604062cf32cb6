"""The operators' plugins in TensorRT's registry, of which a process has one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from reformer_export.contract import PLUGIN_NAMESPACE, PLUGIN_VERSION
from reformer_export.errors import RuntimeUnavailableError


def load_plugins(trt: Any, library: str, operators: Iterable[str], reason: Callable[[], str]) -> None:
    """Load the file `library` unless all `operators` have their plugins already.

    Raises:
        RuntimeUnavailableError: some have none afterwards; `reason` says what is in TensorRT's log.
    """
    registry = trt.get_plugin_registry()

    def missing() -> list[str]:
        present = {
            creator.name
            for creator in registry.all_creators
            if (creator.plugin_namespace, creator.plugin_version) == (PLUGIN_NAMESPACE, PLUGIN_VERSION)
        }
        return sorted(set(operators) - present)

    if missing():
        registry.load_library(library)
    if absent := missing():
        raise RuntimeUnavailableError(
            f"TensorRT plugin library {library}",
            f"no plugin {', '.join(absent)} after loading it ({reason()})",
            "the reformer operators' plugins",
            "take the library and the package from one release, and see `reformer-export doctor`",
        )
