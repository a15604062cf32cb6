"""Sequences that grow by a token at a time, many at once, at the cost of their new tokens."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_NAME, prompt_width
from reformer_export.errors import InputError, ReformerExportError, one_line_repr
from reformer_export.runtimes.cache_buffers import CacheBuffers, choose_capacity, choose_rows
from reformer_export.runtimes.cache_memory import CacheMemory
from reformer_export.runtimes.forks import Forkable, keep_for_good, refuse_after_fork, watch_forks
from reformer_export.runtimes.inputs import check_prompt, check_token, pairs_from_tokens
from reformer_export.runtimes.ort_errors import error_from_run

if TYPE_CHECKING:
    from typing_extensions import Self

    from reformer_export.runtimes.decoder import DecodeCall, Decoder
    from reformer_export.runtimes.generation import Prompt
    from reformer_export.spec import ModelSpec

MAX_BOUND_CALLS: Final = 64
"""Calls that are kept ready, of as many numbers of rows."""


class _Sequence(NamedTuple):
    """`row` of the caches; `length` tokens, the first of `ids`; `logits` float32 [vocab_size] after the last
    one."""

    row: int
    length: int
    ids: array[int]
    logits: NDArray[np.float32]


class DecodingState(Forkable):
    """Sequences with what their tokens left in the model's layers.

    A sequence is named by the key that `add` returns. What its tokens contributed when they were new stays:
    a Reformer's pass over the whole sequence hashes and sorts it anew and gives slightly other logits
    (docs/decoding.md). Each sequence is as it would be alone, whatever the others are.

    A call that is refused, or fails, leaves all sequences as they were: what it has written lies behind
    the tokens that they hold. Threads may share a state: their calls run one after the other.
    """

    def __init__(
        self,
        folder: Path,
        session: Decoder,
        memory: CacheMemory,
        longest: int,
        read_prompt: Callable[[Prompt], list[int]],
        spec: ModelSpec,
    ) -> None:
        """Of the artifact in `folder`, of a model `spec` whose sequences may have `longest` tokens."""
        self._folder = folder
        self._session: Decoder | None = session
        self._longest = longest
        self._spec = spec
        self._read_prompt = read_prompt
        self._buffers = CacheBuffers(session.tensors, memory)
        self._calls: dict[tuple[int, int], DecodeCall] = {}
        self._sequences: dict[int, _Sequence] = {}
        self._next_key = 0
        self._lock = threading.Lock()
        self._is_abandoned = False
        watch_forks(self)

    @property
    def keys(self) -> tuple[int, ...]:
        """Of the sequences, the oldest first."""
        return tuple(self._sequences)

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def nbytes(self) -> int:
        """Bytes of the caches now: of all rows, those of sequences that have left too."""
        return self._buffers.nbytes

    @property
    def capacity(self) -> int:
        """Tokens that a sequence can have before the caches grow."""
        return self._buffers.capacity

    def length(self, key: int) -> int:
        """The tokens of a sequence."""
        return self._find(key).length

    def tokens(self, key: int) -> list[int]:
        """The token ids of a sequence, its prompt first."""
        sequence = self._find(key)
        return sequence.ids[: sequence.length].tolist()

    def logits(self, key: int) -> NDArray[np.float32]:
        """Float32 [vocab_size], read-only: of what follows a sequence's last token."""
        return self._find(key).logits

    def add(self, prompt: Prompt) -> int:
        """Let a sequence join, which begins with `prompt`: text, or token ids as `generate` takes them; its
        key. The prompt's pass is the model's own over it."""
        given = self._read_prompt(prompt)
        check_prompt(given, self._longest, self._check_open().vocab_size)
        ids = array("q", given)
        with self._lock:
            session = self._check_open()
            row = self._find_free_row()
            self._make_room(row + 1, len(ids))
            logits = self._run_prompt(session, row, ids)
            key = self._next_key
            self._next_key += 1
            self._sequences = {**self._sequences, key: _Sequence(row, len(ids), ids, logits)}
            return key

    def foresee_nbytes(self, rows: int, tokens: int) -> int:
        """Bytes of caches, the most at a time, that `reserve` takes: old and new are there together."""
        now = self._buffers
        size = self._choose_size(rows, tokens)
        return now.nbytes + (0 if size == (now.rows, now.capacity) else now.nbytes_of(*size))

    def reserve(self, rows: int, tokens: int) -> None:
        """Grow the caches for `rows` sequences of up to `tokens` tokens, or as many as the model takes:
        until there are more, no call has to grow them, or can fail for want of memory."""
        with self._lock:
            self._check_open()
            self._make_room(rows, tokens)

    def step(self, tokens: Mapping[int, int] | Iterable[tuple[int, int]]) -> None:
        """Give each sequence that `tokens` names its next token; the others rest. One call of the graph."""
        with self._lock:
            session = self._check_open()
            named = self._check_step(session, tokens)
            if not named:
                return
            self._make_room(0, max(self._sequences[key].length for key in named) + 1)
            rows = [self._sequences[key].row for key in named]
            first = min(rows)
            call = self._bind_step(session, first, max(rows) + 1 - first)
            for sequence in self._sequences.values():
                if 0 <= sequence.row - first < len(call.lengths):
                    call.lengths[sequence.row - first] = sequence.length
            for row, token in zip(rows, named.values(), strict=True):
                call.ids[row - first] = token
                call.new_lengths[row - first] = 1
            logits = self._run(call)
            stepped = {}
            for row, (key, token) in zip(rows, named.items(), strict=True):
                held = self._sequences[key]
                del held.ids[held.length :]  # left by a step that was interrupted
                held.ids.append(token)
                stepped[key] = _Sequence(row, held.length + 1, held.ids, _freeze(logits[row - first]))
            self._sequences = {**self._sequences, **stepped}

    def remove(self, key: int) -> None:
        """Let a sequence leave; its memory is there for the next."""
        with self._lock:
            self._check_open()
            row = self._find(key).row
            self._sequences = {other: held for other, held in self._sequences.items() if other != key}
            self._close_gap(row)

    def refresh(self, key: int) -> None:
        """Run the whole pass over a sequence again, as if it were a prompt: its logits are the model's own,
        and so is what later steps attend to. Takes a free row of the caches meanwhile."""
        with self._lock:
            session = self._check_open()
            held = self._find(key)
            row = self._find_free_row()
            self._make_room(row + 1, held.length)
            logits = self._run_prompt(session, row, held.ids[: held.length])
            self._sequences = {**self._sequences, key: held._replace(row=row, logits=logits)}
            self._close_gap(held.row)

    def close(self) -> None:
        """Release the caches. Every later use but another `close` is refused."""
        with self._lock:
            self._session = None
            self._calls = {}
            self._sequences = {}
            self._buffers = CacheBuffers(self._buffers.tensors, self._buffers.memory)

    def abandon(self) -> None:
        self._is_abandoned = True
        for thing in (self._session, self._calls, self._buffers):
            keep_for_good(thing)
        self._session = None
        self._lock = threading.Lock()  # whoever held the other one is not in this process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> Decoder:
        if self._is_abandoned:
            raise refuse_after_fork(self._folder)
        if self._session is None:
            raise InputError("decoding", "a closed state", "an open one", "start another")
        return self._session

    def _find(self, key: int) -> _Sequence:
        try:
            return self._sequences[key]
        except (KeyError, TypeError) as error:
            self._check_open()
            expected = f"one of the {len(self._sequences)} sequences'"
            fix = "give a key that `add` returned, of a sequence that was not removed"
            raise InputError("key", one_line_repr(key), expected, fix) from error

    def _check_step(
        self, session: Decoder, tokens: Mapping[int, int] | Iterable[tuple[int, int]]
    ) -> dict[int, int]:
        named = {}
        for key, token in pairs_from_tokens(tokens):
            held = self._find(key)
            check_token(f"the token of sequence {key}", token, session.vocab_size)
            if held.length >= self._longest:
                got = f"a token after {held.length}"
                expected = f"at most {self._longest}, the longest sequence"
                raise InputError(f"sequence {key}", got, expected, "end it, or let it leave")
            if key in named:
                raise InputError(f"sequence {key}", "two tokens", "one in a step", "take two steps")
            named[key] = int(token)
        return named

    def _find_free_row(self) -> int:
        taken = {held.row for held in self._sequences.values()}
        return next(row for row in range(len(taken) + 1) if row not in taken)

    def _make_room(self, rows: int, tokens: int) -> None:
        """Grow the caches for so many rows, and for sequences of so many tokens."""
        now = self._buffers
        size = self._choose_size(rows, tokens)
        if size != (now.rows, now.capacity):
            held = {held.row: held.length for held in self._sequences.values()}
            self._buffers = now.resized(*size, held)

    def _choose_size(self, rows: int, tokens: int) -> tuple[int, int]:
        """Rows and capacity of the caches when they have grown."""
        now = self._buffers
        needed = min(tokens, self._longest)
        return choose_rows(now.rows, rows), choose_capacity(now.capacity, needed, self._longest)

    def _close_gap(self, gap: int) -> None:
        """Move the last row to the row `gap`, which nobody has."""
        for key, held in self._sequences.items():
            if held.row == len(self._sequences) > gap:
                self._buffers.move_row(gap, held.row, held.length)
                self._sequences = {**self._sequences, key: held._replace(row=gap)}
                return

    def _bind_step(self, session: Decoder, first: int, batch: int) -> DecodeCall:
        """A step of so many rows, in which all rest."""
        call = self._calls.get((first, batch))
        if call is None or call.buffers is not self._buffers:
            kept = {where: each for where, each in self._calls.items() if each.buffers is self._buffers}
            self._calls = kept if len(kept) < MAX_BOUND_CALLS else {}
            call = session.bind(self._buffers, first, np.zeros((batch, 1), np.int64))
            self._calls[first, batch] = call
        for values in (call.ids, call.lengths, call.new_lengths):
            values.fill(0)
        return call

    def _run_prompt(self, session: Decoder, row: int, ids: array[int]) -> NDArray[np.float32]:
        padded = np.zeros((1, prompt_width(self._spec, len(ids))), np.int64)
        padded[0, : len(ids)] = ids
        call = session.bind(self._buffers, row, padded)
        call.new_lengths[0] = len(ids)
        return _freeze(self._run(call)[0])

    def _run(self, call: DecodeCall) -> NDArray[np.float32]:
        try:
            return call.run()
        except ReformerExportError:
            raise
        except Exception as error:
            raise error_from_run(error, call.ids.shape, self._buffers.memory.device, DECODE_NAME) from error


def _freeze(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """A read-only copy of one row, without the others."""
    row: NDArray[np.float32] = logits.copy()
    row.flags.writeable = False
    return row
