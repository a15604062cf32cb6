"""An engine's execution contexts: one a profile, all in the same scratch memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.runtimes.tensorrt.buffers import Block
from reformer_export.runtimes.tensorrt.cuda import CudaDevice
from reformer_export.runtimes.tensorrt.engine import OpenedEngine


@dataclass
class ProfileContext:
    """A profile's execution context, the scratch memory it needs in bytes, and the block it was given."""

    context: Any
    scratch_bytes: int
    scratch: tuple[int, int] = (0, 0)


class EngineContexts:
    """The contexts of an engine on one stream, each made when it is first asked for.

    They work in the same scratch memory, of the largest profile used so far: they never run at the same time.
    """

    def __init__(
        self,
        opened: OpenedEngine,
        cuda: CudaDevice,
        stream: int,
        before_move: Callable[[], None],
        *,
        runtime_captures: bool = False,
    ) -> None:
        """`before_move` is called before the scratch memory moves; `runtime_captures` lets TensorRT-RTX
        capture CUDA graphs by itself."""
        self._opened = opened
        self._cuda = cuda
        self._stream = stream
        self._runtime_captures = runtime_captures
        self._contexts: dict[int, ProfileContext] = {}
        self._scratch = Block(cuda.allocate, cuda.free, before_move)

    def find(self, profile: int) -> Any:
        """The context of a profile, with its scratch memory."""
        if profile not in self._contexts:
            self._contexts[profile] = self._open_profile(profile)
        made = self._contexts[profile]
        self._scratch.reserve(made.scratch_bytes)
        block = (self._scratch.address, self._scratch.size)
        if made.scratch != block:
            made.context.set_device_memory(*block)
            made.scratch = block
        return made.context

    def clear(self) -> None:
        """Drop the contexts; nothing of them may be running."""
        self._contexts.clear()

    def release(self) -> None:
        """Give the scratch memory back."""
        self._scratch.release()

    def failure(self, what: str, mark: int) -> RuntimeUnavailableError:
        """That TensorRT failed on `what`, with the reason in its log since `mark`."""
        return RuntimeUnavailableError(
            f"engine {self._opened.record.name}: {self._opened.title} failed on {what}",
            f"'{self._opened.store.errors_since(mark)}'",
            "a result",
            "see `reformer-export doctor`, or build the engine again",
        )

    def _open_profile(self, profile: int) -> ProfileContext:
        mark = self._opened.store.mark()
        context = self._create_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream):
            raise self.failure(f"a context for profile {profile}", mark)
        self._cuda.synchronize(self._stream)
        # The profile's own need, not that of the engine's largest one.
        size = int(self._opened.engine.get_device_memory_size_for_profile_v2(profile))
        return ProfileContext(context, max(size, 1))

    def _create_context(self) -> Any:
        trt, engine = self._opened.trt, self._opened.engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._runtime_captures:
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)
