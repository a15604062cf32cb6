"""Bounds on an .onnx file from a stranger, checked before a library that trusts it reads it.

ONNX Runtime inlines functions before it looks at their number, some of its versions read external data
outside the file's folder, and sizes in a file are only promises. Read without a protobuf library, which a
deployment does not have: field numbers are those of onnx.proto, the encoding is protobuf's wire format.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reformer_export.artifact.files import resolve_inside
from reformer_export.contract import DOMAIN
from reformer_export.errors import ArtifactError
from reformer_export.runtimes.wire_format import BYTES, VARINT, RefusedError, read_fields, read_packed

MAX_NODES: Final = 200_000
"""Nodes after functions are inlined; the largest Reformers that were exported have fewer than 20,000."""

MAX_DEPTH: Final = 16
"""Graphs within graphs: bodies of loops and branches."""

MAX_FUNCTIONS: Final = 1000
MAX_TENSOR_BYTES: Final = 2**40

_MAX_RANK: Final = 64

# TensorProto.DataType -> bytes of an element in raw_data; types of less than a byte are not in an artifact.
_ELEMENT_BYTES: Final = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2,
}  # fmt: skip


# The messages of onnx.proto in which nodes, tensors and functions lie: field number -> what it holds.
_MESSAGES: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {1: "name", 7: "node", 10: "domain", 11: "attribute"},
    "node": {4: "name", 5: "attribute", 7: "domain"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        **dict.fromkeys((22, 23), "sparse tensor"),
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
}


@dataclass
class _Scope:
    """Nodes of one graph or function, its subgraphs included: how many, and which functions, by domain and
    name, they may call."""

    nodes: int = 0
    calls: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)


def check_onnx_structure(model: Path) -> dict[str, int]:
    """Count the custom nodes of `model`'s graph by operator (subgraphs included, function bodies not);
    ArtifactError when it is no ONNX file of a size that a Reformer can have.

    Checks that no external data lies outside of its folder, that tensors have the shapes and bytes that they
    promise, that graphs nest `MAX_DEPTH` deep at most, that functions do not call themselves, and that
    inlining them all makes `MAX_NODES` nodes at most.
    """
    fix = "export the checkpoint again"
    if model.stat().st_size == 0:
        raise ArtifactError(model, "an empty file", "an ONNX model", fix)
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            calls = _Walk(data, model.parent).count_calls()
        except RefusedError as refused:
            raise ArtifactError(model, refused.got, refused.expected, fix) from refused
    counts = {
        name.decode("utf-8", "replace"): n for (domain, name), n in calls.items() if domain == DOMAIN.encode()
    }
    return dict(sorted(counts.items()))


class _Walk:
    def __init__(self, data: mmap.mmap, folder: Path) -> None:
        self._data = data
        self._folder = folder

        self._functions: dict[tuple[bytes, bytes], _Scope] = defaultdict(_Scope)

    def count_calls(self) -> Counter[tuple[bytes, bytes]]:
        """The nodes of the main graph, by domain and name, once the whole file has been looked at."""
        main = _Scope()
        self._walk("model", 0, len(self._data), -1, main)
        _count_inlined(main, self._functions)
        return main.calls

    def _walk(self, kind: str, start: int, end: int, depth: int, scope: _Scope) -> tuple[bytes, bytes]:
        """Check a message, add its nodes to `scope`, and return its domain and name."""
        if depth > MAX_DEPTH:
            raise RefusedError(
                f"graphs nested more than {MAX_DEPTH} deep", "loops and branches of a Reformer"
            )
        name = domain = b""
        for number, first, last in self._messages(start, end):
            held = _MESSAGES[kind].get(number)
            if held == "name":
                name = self._data[first:last]
            elif held == "domain":
                domain = self._data[first:last]
            elif held == "tensor":
                self._tensor(first, last)
            elif held == "function":
                self._function(first, last)
            elif held == "training":
                raise RefusedError("a model with training information", "a model for inference")
            elif held is not None:
                self._walk(held, first, last, depth + (held == "graph"), scope)
        if kind == "node":
            scope.nodes += 1
            scope.calls[domain, name] += 1
            if scope.nodes > MAX_NODES:
                raise RefusedError(f"more than {MAX_NODES} nodes", "those of a Reformer")
        return domain, name

    def _function(self, start: int, end: int) -> None:
        scope = _Scope()
        known = self._functions[self._walk("function", start, end, 0, scope)]
        known.nodes += scope.nodes
        known.calls.update(scope.calls)
        if len(self._functions) > MAX_FUNCTIONS:
            raise RefusedError(f"more than {MAX_FUNCTIONS} functions", "those of a Reformer")

    def _tensor(self, start: int, end: int) -> None:
        dims: list[int] = []
        element_type, raw_bytes = 0, None
        for number, wire, first, last in read_fields(self._data, start, end):
            if number == 1 and wire in (VARINT, BYTES):
                dims += [first] if wire == VARINT else read_packed(self._data, first, last, _MAX_RANK + 1)
            elif number == 2 and wire == VARINT:
                element_type = first
            elif number == 9 and wire == BYTES:
                raw_bytes = last - first
            elif number == 13 and wire == BYTES:
                self._external_data(first, last)
        if len(dims) > _MAX_RANK or any(dim >= 2**63 for dim in dims):
            raise RefusedError(f"a tensor of shape {_signed(dims)}", "dimensions from 0 up")
        size = math.prod(dims) * _ELEMENT_BYTES.get(element_type, 1)
        if size > MAX_TENSOR_BYTES:
            raise RefusedError(f"a tensor of shape {dims}", f"at most {MAX_TENSOR_BYTES} bytes")
        if raw_bytes is not None and element_type in _ELEMENT_BYTES and raw_bytes != size:
            raise RefusedError(f"a tensor of shape {dims} with {raw_bytes} bytes", f"{size} bytes")

    def _external_data(self, start: int, end: int) -> None:
        """Every value of an entry, whatever its key: a file's name, or a number, which stays inside."""
        for number, first, last in self._messages(start, end):
            if number == 2:
                resolve_inside(self._folder, self._data[first:last].decode("utf-8", errors="replace"))

    def _messages(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(field number, first byte, end) of every field that holds bytes."""
        for number, wire, first, last in read_fields(self._data, start, end):
            if wire == BYTES:
                yield number, first, last


def _signed(dims: list[int]) -> list[int]:
    return [dim - 2**64 if dim >= 2**63 else dim for dim in dims[:_MAX_RANK]]


def _count_inlined(main: _Scope, functions: dict[tuple[bytes, bytes], _Scope]) -> None:
    """Refuse functions that call themselves, and more than MAX_NODES nodes once all calls are inlined."""
    inlined: dict[tuple[bytes, bytes], int] = {}
    waiting = set(functions)
    while waiting:  # functions whose callees are all counted, layer by layer
        ready = [name for name in waiting if not waiting & functions[name].calls.keys()]
        if not ready:
            raise RefusedError("functions that call themselves", "bodies that end")
        for name in ready:
            inlined[name] = min(_inlined_nodes(functions[name], inlined), 2 * MAX_NODES)
        waiting -= set(ready)
    total = _inlined_nodes(main, inlined)
    if total > MAX_NODES:
        raise RefusedError(f"functions that grow to more than {MAX_NODES} nodes", "those of a Reformer")


def _inlined_nodes(scope: _Scope, inlined: dict[tuple[bytes, bytes], int]) -> int:
    return scope.nodes + sum(count * inlined.get(name, 0) for name, count in scope.calls.items())
