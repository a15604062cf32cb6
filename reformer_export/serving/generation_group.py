"""Generations of one kind that step together, in one thread."""

from __future__ import annotations

from collections.abc import Callable, Collection

from reformer_export.errors import InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.generation_rows import GenerationRows, PassingRows, SteppingRows
from reformer_export.serving.generation_stream import GenerationStream
from reformer_export.serving.messages import Piece

Send = Callable[[list[Piece]], object]
"""Where the pieces of a step go, all together."""


class GenerationGroup:
    """Streams that take a token each in every step.

    With decode.onnx they share a decoding state; without, each token is a whole pass over its text. Only one
    thread calls it, but where another holds the scheduler's lock and the group is empty.

    Attributes:
        streams: those that it has, by their generations; changed under the scheduler's lock.
        nbytes: of its caches now, or of those that it is about to have.
    """

    def __init__(self, model: Runtime, kind: tuple[bool, int | None], send: Send) -> None:
        """Of streams of this `kind`."""
        self.streams: dict[Generation, GenerationStream] = {}
        self.nbytes = 0
        self._model = model
        self._has_cache, self._num_hashes = kind
        self._send = send
        self._state: DecodingState | None = None
        self._rows: GenerationRows | None = None

    def foresee_nbytes(self, stream: GenerationStream) -> int:
        """Bytes of caches, the most at a time, while `stream` joins."""
        if not self._has_cache:
            return 0
        if self._state is None:
            self._state = self._model.start_decoding(self._num_hashes)
        return self._state.foresee_nbytes(_count_rows({*self.streams, stream.generation}), stream.most_tokens)

    def join(self, stream: GenerationStream) -> bool:
        """Read the prompt of a stream that `streams` has; False, and its client is told, where that fails."""
        try:
            if stream.is_cancelled():
                stream.end(None)
                return False
            rows = self._open_rows()
            self._reserve(stream)
            rows.join(stream.generation)
        except Exception as error:  # one request's failure is not the others'
            stream.end(error)
            return False
        finally:
            self.nbytes = 0 if self._state is None else self._state.nbytes
        return True

    def step(self) -> list[GenerationStream]:
        """A token for each stream; those that have ended."""
        try:
            return self._step()
        except ConnectionError:
            raise
        except Exception as error:  # of all: nobody in it can go on
            ended = list(self.streams.values())
            for stream in ended:
                stream.end(error)
            self.release()
            return ended

    def release(self) -> None:
        """Give the caches back; no stream runs any more."""
        if self._state is not None:
            self._state.close()
        self._state = self._rows = None
        self.nbytes = 0

    def _step(self) -> list[GenerationStream]:
        rows, pieces = self._open_rows(), []
        ended = [stream for stream in self.streams.values() if stream.is_cancelled()]
        for stream in ended:
            rows.leave(stream.generation)
            stream.end(None)

        def refuse(generation: Generation, error: ReformerExportError) -> None:
            stream = self.streams[generation]
            stream.end(error)
            ended.append(stream)

        for generation, token in rows.take(refuse):
            stream = self.streams[generation]
            piece = stream.read(token)
            if piece is None:
                continue
            pieces.append(piece)
            if piece.reason is not None:
                rows.leave(generation)
                ended.append(stream)
        if pieces:
            self._send(pieces)
        rows.advance()
        return ended

    def _reserve(self, stream: GenerationStream) -> None:
        if self._state is None:
            return
        try:
            self._state.reserve(_count_rows(self.streams), stream.most_tokens)
        except InputError as error:  # memory is short, which the request cannot help
            fix = "try again later, or start the server with a smaller `max_cache`"
            raise RuntimeUnavailableError(error.what, error.got, error.expected, fix) from error

    def _open_rows(self) -> GenerationRows:
        if self._rows is None:
            self._rows = PassingRows() if self._state is None else SteppingRows(self._state)
        return self._rows


def _count_rows(generations: Collection[Generation]) -> int:
    """Of caches: a refresh takes a free one."""
    return len(generations) + any(each.options.refresh for each in generations)
