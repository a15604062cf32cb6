# SPDX-License-Identifier: Apache-2.0
"""What is measured of a byte-level model: its bits per character, whether it is causal, a sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from kjv_text import BYTE_OFFSET, decode, encode
from torch import Tensor
from torch.nn import functional

SEQUENCE_LENGTH = 2048

Predict = Callable[[Tensor], Tensor]
"""From token ids [1, length], int64, to logits [1, length, vocabulary]."""


@torch.no_grad()
def bits_per_character(
    predict: Predict, ids: Tensor, limit: int | None = None, length: int = SEQUENCE_LENGTH
) -> float:
    """Evaluate with the library's own forward pass over full windows of ``length`` tokens of ``ids``.

    Windows overlap by one byte, so each byte but the first is predicted exactly once, the first
    bytes of a window with little context. The rest that fills no window is left out. ``limit``
    takes only so many windows, spread evenly.
    """
    starts = list(range(0, len(ids) - length + 1, length - 1))
    if limit is not None:
        starts = starts[:: max(1, len(starts) // limit)][:limit]
    nats = 0.0
    for start in starts:
        window = ids[start : start + length].unsqueeze(0)
        logits = predict(window)[:, :-1].float()
        nats += functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).item()
    return nats / len(starts) / math.log(2)


@torch.no_grad()
def causality_check(predict: Predict, ids: Tensor, positions: int) -> dict[str, float]:
    """Compare full windows with predictions that see nothing but their prefix.

    LSH attention sorts a whole window, so later bytes can change which earlier ones a position
    attends to. This measures what that does to the bits per character, on bytes taken evenly.
    """
    generator = torch.Generator().manual_seed(0)
    count = len(ids) // SEQUENCE_LENGTH
    full: list[float] = []
    prefix: list[float] = []
    for index in range(positions):
        start = index * count // positions * SEQUENCE_LENGTH
        window = ids[start : start + SEQUENCE_LENGTH].unsqueeze(0)
        position = int(torch.randint(1, SEQUENCE_LENGTH, (1,), generator=generator))
        for seen, bits in ((window, full), (window[:, :position], prefix)):
            logits = predict(seen)[0, position - 1].float()
            nats = functional.cross_entropy(logits, window[0, position]).item()
            bits.append(nats / math.log(2))
    return {
        "positions": positions,
        "full_window_bpc": round(sum(full) / positions, 4),
        "prefix_only_bpc": round(sum(prefix) / positions, 4),
    }


@torch.no_grad()
def sample(predict: Predict, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Continue ``prompt`` by ``length`` bytes, recomputing the whole text at each byte."""
    generator = torch.Generator().manual_seed(seed)
    ids = encode(prompt)
    for _ in range(length):
        logits = predict(ids.unsqueeze(0))[0, -1].float()
        logits[:BYTE_OFFSET] = -math.inf
        probabilities = torch.softmax(logits / temperature, dim=-1)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)])
    return decode(ids)
