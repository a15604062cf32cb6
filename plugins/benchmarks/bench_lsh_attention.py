"""Times LSHBuckets + LSHAttention against HF's same steps and against full attention, in turns.

    python plugins/benchmarks/bench_lsh_attention.py LIBRARY [--lengths 2048 16384] [--hashes 1 4 8]

One causal layer, batch 1, float32, 8 heads x 64, chunk 64, buckets as HF chooses them. HF runs its
whole LSHSelfAttention with the two projections replaced by ready results. Extra memory is the growth
of the peak resident set of a process of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reformer_ctypes import Chunking, Kernels

HEADS, HEAD_SIZE, CHUNK, MAX_POSITIONS = 8, 64, 64, 65536


class Ready(torch.nn.Module):
    """Stands in for a projection: returns the tensor [B, L, H*D] it was given."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, _hidden: torch.Tensor) -> torch.Tensor:
        return self.tensor


def choose_factors(length: int) -> list[int]:
    """As LSHSelfAttention._set_num_buckets."""
    power = (2 * (length // CHUNK)).bit_length() - 1
    limit = 2 * max(int((MAX_POSITIONS // CHUNK) ** 0.5), CHUNK)
    return [2**power] if 2**power <= limit else [2 ** (power // 2), 2 ** (power - power // 2)]


def build_contenders(kernels: Kernels, length: int, hashes: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    width = HEADS * HEAD_SIZE
    query_key, value = torch.randn(1, length, width), torch.randn(1, length, width)
    factors = choose_factors(length)
    config = ReformerConfig(
        attention_head_size=HEAD_SIZE, num_attention_heads=HEADS, hidden_size=width, num_hashes=hashes,
        num_buckets=factors if len(factors) > 1 else factors[0], hash_seed=0, is_decoder=True,
        lsh_attn_chunk_length=CHUNK, max_position_embeddings=MAX_POSITIONS,
        lsh_attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    layer = LSHSelfAttention(config, layer_idx=0).eval()
    layer.query_key, layer.value = Ready(query_key), Ready(value)
    mask = torch.ones(1, length, dtype=torch.int32)
    rotations = torch.randn(HEADS, HEAD_SIZE, hashes, sum(factors) // 2)
    chunking = Chunking(CHUNK, 1, 0, CHUNK, CHUNK, 1)
    heads = [t.view(1, length, HEADS, HEAD_SIZE).transpose(1, 2) for t in (query_key, query_key, value)]
    buckets = kernels.lsh_buckets(query_key, rotations, mask, factors)
    square = torch.randn(1024, 1024)  # its product shows what the machine can do at the moment

    def ours() -> torch.Tensor:
        found = kernels.lsh_buckets(query_key, rotations, mask, factors)
        return kernels.lsh_attention(query_key, value, found, mask, chunking)

    return {
        "ours": ours,
        "hash": lambda: kernels.lsh_buckets(query_key, rotations, mask, factors),
        "attend": lambda: kernels.lsh_attention(query_key, value, buckets, mask, chunking),
        "hf": lambda: layer(query_key),
        "sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True),
        "matmul": lambda: square @ square,
    }


def time_in_turns(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):  # the first turn warms up
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes() -> int:
    """Peak resident set of this process (ru_maxrss would start at the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure_memory(arguments: argparse.Namespace, name: str, length: int, hashes: int) -> float:
    """Extra peak megabytes of one run, in a fresh process."""
    command = [sys.executable, __file__, str(arguments.library), "--threads", str(arguments.threads)]
    command += ["--memory-of", name, "--lengths", str(length), "--hashes", str(hashes)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(kernels: Kernels, name: str, length: int, hashes: int) -> None:
    run = build_contenders(kernels, length, hashes)[name]
    kernels.workspace = torch.empty(0, dtype=torch.uint8)
    before = peak_bytes()
    run()
    print((peak_bytes() - before) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 16384])
    parser.add_argument("--hashes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME")
    parser.add_argument("--memory", action="store_true", help="measure extra memory too")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    kernels = Kernels(arguments.library, arguments.threads)
    if arguments.memory_of:
        print_memory(kernels, arguments.memory_of, arguments.lengths[0], arguments.hashes[0])
        return
    print(f"library {kernels.version}, {kernels.cpu_target}, {arguments.threads} threads; median (best) ms")
    for length in arguments.lengths:
        for hashes in arguments.hashes:
            contenders = build_contenders(kernels, length, hashes)
            if arguments.only:
                contenders = {name: contenders[name] for name in arguments.only}
            seconds = time_in_turns(contenders, arguments.repeats)
            cells = [
                f"{name} {1e3 * statistics.median(s):.1f} ({1e3 * min(s):.1f})" for name, s in seconds.items()
            ]
            print(f"L {length} hashes {hashes}: " + ", ".join(cells), flush=True)
            if arguments.memory:
                extra = {n: measure_memory(arguments, n, length, hashes) for n in ("ours", "hf")}
                print(f"  extra peak memory, MB: ours {extra['ours']:.0f}, hf {extra['hf']:.0f}", flush=True)


if __name__ == "__main__":
    main()
