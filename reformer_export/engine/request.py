"""What goes between the program and the process that builds: a request there, events back, all JSON.

Both sides are this package, so the JSON is trusted. The event that ends a build well has the fields of
`BuildResult`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import msgspec

from reformer_export.artifact.signature import BATCH, SEQUENCE
from reformer_export.engine.options import EngineOptions


@dataclass(frozen=True)
class BuildRequest:
    """Everything the building process needs; paths are absolute.

    `options` are the user's, with their profiles and without `timing_cache`; `dimensions` are the names of
    what these have sizes for; `operators` counts the nodes of `model` that plugins run by operator; `engine`
    and `layers` are files to write, `layers` only when asked; `timing_cache` is read if it exists and
    replaced at the end; `inlines` says that the model has Linear nodes.
    """

    options: EngineOptions
    model: str
    plugin: str
    engine: str
    operators: dict[str, int]
    timing_cache: str | None = None
    layers: str | None = None
    inlines: bool = False
    dimensions: tuple[str, ...] = (BATCH, SEQUENCE)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def request_from_json(text: str) -> BuildRequest:
    """The request that `BuildRequest.to_json` wrote."""
    return msgspec.convert(json.loads(text), BuildRequest)


@dataclass(frozen=True)
class BuildResult:
    """What the building process found: the runtime's version, the compute capabilities that the engine is
    for, the network's plugin layers by operator, and what the user should know."""

    runtime_version: str
    compute_capabilities: tuple[str, ...]
    plugin_layers: dict[str, int]
    notes: tuple[str, ...]
