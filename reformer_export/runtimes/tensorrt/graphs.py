"""CUDA graphs: what a request of one shape enqueues, recorded once and launched as a whole afterwards."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from reformer_export.errors import ReformerExportError
from reformer_export.runtimes.tensorrt.cuda import CudaDevice

KEPT_GRAPHS: Final = 32
"""A graph holds some hundred kilobytes on the host and the device."""

REMEMBERED_SHAPES: Final = 1024
"""How many shapes that came once are known when they come again."""


@dataclass(frozen=True)
class CapturedGraph:
    """An executable graph, and the shapes of the outputs that it writes."""

    handle: int
    output_shapes: dict[str, tuple[int, ...]]


class GraphCache:
    """The graphs of the shapes used last. Not safe to use from two threads at once.

    A graph has the buffers' addresses inside: `clear` it when one changes.
    """

    def __init__(self, cuda: CudaDevice, stream: int) -> None:
        self._cuda = cuda
        self._stream = stream
        self._graphs: OrderedDict[Hashable, CapturedGraph] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, key: Hashable) -> CapturedGraph | None:
        """The graph of `key`, which is now the one used last."""
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def comes_again(self, key: Hashable) -> bool:
        """Whether `key` was asked for here before: a shape that comes once is not worth a graph."""
        known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        while len(self._seen) > REMEMBERED_SHAPES:
            self._seen.popitem(last=False)
        return known

    def capture(
        self, key: Hashable, output_shapes: dict[str, tuple[int, ...]], enqueue: Callable[[], None]
    ) -> None:
        """Record what `enqueue` enqueues; it must have run outside of a recording before, with this shape.

        The graph used longest ago makes room. Raises what `enqueue` and CUDA raise; nothing is kept then.
        """
        self._cuda.begin_capture(self._stream)
        try:
            enqueue()
        except BaseException:
            with contextlib.suppress(ReformerExportError):  # an invalid recording cannot be ended well
                self._cuda.destroy_graph(self._cuda.end_capture(self._stream))
            raise
        self._graphs[key] = CapturedGraph(self._cuda.end_capture(self._stream), dict(output_shapes))
        while len(self._graphs) > KEPT_GRAPHS:
            self._cuda.destroy_graph(self._graphs.popitem(last=False)[1].handle)

    def launch(self, graph: CapturedGraph) -> None:
        self._cuda.launch_graph(graph.handle, self._stream)

    def clear(self) -> None:
        """Destroy all graphs, whatever fails on the way; none may be running."""
        graphs, self._graphs = self._graphs, OrderedDict()
        with contextlib.ExitStack() as stack:
            for graph in graphs.values():
                stack.callback(self._cuda.destroy_graph, graph.handle)
