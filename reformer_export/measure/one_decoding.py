"""One contender's prompt and a turn of steps in a process of its own; `decoding_memory.measure_decoding` runs
it and reads its line of JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from reformer_export.artifact.manifest import read_manifest
from reformer_export.measure import memory
from reformer_export.measure.contenders import random_ids
from reformer_export.measure.decoders import STEPS_OF_A_TURN, DecodeSetup, open_continuations
from reformer_export.measure.decoding_memory import OF_DECODING, DecodeMemory


def run_once(contender: DecodeSetup, batch: int, length: int) -> DecodeMemory | None:
    """Load, read a prompt and take `STEPS_OF_A_TURN` steps, or as many as a turn has; None where the system
    does not tell a process's memory."""
    setup = contender.setup
    vocab_size = read_manifest(Path(setup.out)).spec.vocab_size
    tokens = random_ids(vocab_size, batch, length + STEPS_OF_A_TURN)
    before = memory.gpu_bytes() if setup.device == "cuda" else 0
    with open_continuations([contender]) as opened:
        continuation = opened[contender.name]
        find_peak, measured = memory.find_gauge(setup.device)
        can_tell = measured == memory.OF_THE_PASS
        find_now = memory.resident_bytes if can_tell else find_peak
        loaded = find_now()
        continuation.start(tokens[:, :length])
        for at in range(length, length + continuation.steps_of_a_turn):
            continuation.step(tokens[:, at])
        held, peak, cache = find_now(), find_peak(), continuation.cache_bytes
    if before is None or loaded is None or held is None or peak is None:
        return None
    words = OF_DECODING if can_tell else measured
    return DecodeMemory(loaded - before, held - before, peak - before, cache, words)


def main(job: str) -> None:
    """`job`: JSON of a DecodeSetup, a batch and a length. Prints a line of JSON: a DecodeMemory or null."""
    arguments = msgspec.json.decode(job, type=tuple[DecodeSetup, int, int])
    print(msgspec.json.encode(run_once(*arguments)).decode())


if __name__ == "__main__":
    main(sys.argv[1])
