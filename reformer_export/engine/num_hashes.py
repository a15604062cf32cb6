"""A model whose runs choose their rounds of hashing, with a number of them built in.

The choice is an input of the graph with a default. TensorRT takes the default for a constant and cuts the
rotations to it, so that an engine has what the default says: it is set, in the model's bytes, before
TensorRT reads them. Nothing else of the model changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import ArtifactError, InputError
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.wire_format import BYTES, RefusedError, read_fields

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_TENSOR_NAME: Final = 8
_TENSOR_RAW_DATA: Final = 9
"""Field numbers of onnx.proto."""

_INT64_BYTES: Final = 8


def choose_built_in_num_hashes(out: Path, manifest: Manifest, given: int | None) -> int | None:
    """The rounds that an engine of the artifact `out` gets; None for an artifact without the choice.

    InputError for a number out of range, or none where there is the choice: an engine has no other.
    """
    choice = manifest.runtime_num_hashes
    if choice is not None and given is None:
        raise InputError(
            out,
            f"an artifact exported with `max_hashes` {choice.max_hashes}, whose runs choose",
            "a number of hashes to build in",
            f"give `num_hashes`, from 1 to {choice.max_hashes}",
        )
    return choose_num_hashes(manifest, given)


def build_in_num_hashes(path: Path, num_hashes: int) -> bytes:
    """The model in the file `path` with `num_hashes` as the default; ArtifactError where it has no choice."""
    data = bytearray(path.read_bytes())
    try:
        places = _find_defaults(data)
    except RefusedError as refused:
        raise ArtifactError(path, refused.got, refused.expected, "export the checkpoint again") from refused
    if len(places) != 1:
        got, fix = f"{len(places)} defaults of {NUM_HASHES_INPUT}", "export the checkpoint again"
        raise ArtifactError(path, got, "one, int64 [1]", fix)
    data[places[0] : places[0] + _INT64_BYTES] = num_hashes.to_bytes(_INT64_BYTES, "little")
    return bytes(data)


def _find_defaults(data: bytearray) -> list[int]:
    """Where the eight bytes of each initialiser of the input's name begin."""
    graphs = _list_messages(data, 0, len(data), _GRAPH)
    tensors = [tensor for graph in graphs for tensor in _list_messages(data, *graph, _INITIALIZER)]
    named = [
        tensor
        for tensor in tensors
        for first, last in _list_messages(data, *tensor, _TENSOR_NAME)
        if data[first:last] == NUM_HASHES_INPUT.encode()
    ]
    raw = [place for tensor in named for place in _list_messages(data, *tensor, _TENSOR_RAW_DATA)]
    return [first for first, last in raw if last - first == _INT64_BYTES]


def _list_messages(data: bytearray, start: int, end: int, field: int) -> list[tuple[int, int]]:
    """(first byte, end) of every field `field` that holds bytes."""
    fields = read_fields(data, start, end)
    return [(first, last) for number, wire, first, last in fields if (number, wire) == (field, BYTES)]
