"""Registers, spills and theoretical occupancy of the CUDA kernels, from what ptxas says.

    python -m benchmarks.gpu_occupancy --nvcc /usr/local/cuda/bin/nvcc --arch 80 --arch 90

Compiles plugins/kernels/cuda once an architecture (minutes) and prints the table of docs/gpu-performance.md.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

PLUGINS: Final = Path(__file__).parent.parent / "plugins"
WARP: Final = 32
REGISTERS: Final = 65536
"""32-bit registers of a multiprocessor, on every architecture below."""

REGISTER_UNIT: Final = 256
"""Registers are handed out to a warp in this many."""

PARTITIONS: Final = 4
"""Parts of a multiprocessor, each with a scheduler and its share of the registers; a warp is of one."""

RESERVED_BYTES: Final = 1024
"""Shared memory that the system takes of every block."""


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor (CUDA programming guide, technical specifications per capability)."""

    warps: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS: Final = {
    "75": Multiprocessor(32, 16, 64 << 10),
    "80": Multiprocessor(64, 32, 164 << 10),
    "86": Multiprocessor(48, 16, 100 << 10),
    "89": Multiprocessor(48, 24, 100 << 10),
    "90": Multiprocessor(64, 32, 228 << 10),
    "100": Multiprocessor(64, 32, 228 << 10),
    "120": Multiprocessor(48, 24, 100 << 10),
}


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel: its demangled name, registers a thread, bytes spilled a thread."""

    kernel: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched: threads and bytes of dynamic shared memory a block."""

    threads: int
    shared_bytes: int

    def blocks(self, registers: int, limits: Multiprocessor) -> tuple[int, str]:
        """Blocks a multiprocessor holds, and what keeps it from more."""
        warps = self.threads // WARP
        warp_registers = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        by_registers = PARTITIONS * (REGISTERS // PARTITIONS // warp_registers) // warps
        bounds = {
            "registers": by_registers,
            "shared memory": limits.shared_bytes // (self.shared_bytes + RESERVED_BYTES),
            "warps": limits.warps // warps,
            "blocks": limits.blocks,
        }
        bound = min(bounds, key=lambda name: bounds[name])
        return bounds[bound], bound


def attention_bytes(element: int, head_size: int, lsh: bool, window: int = 128) -> int:
    """Shared memory of attend_chunk (attention/tile.cuh), for elements of `element` bytes."""
    row = element * head_size
    keys = 8 if row > 512 else 16 if row == 512 else 64 if element == 2 else 32
    queries = 32 if row > 512 else 64
    in_registers = element == 2 and head_size == 128
    tiles = -(-window // keys)
    own = min(queries // keys, tiles) if lsh and not in_registers and queries <= 2 * keys else 0
    slots = min(3 if row >= 512 else 2, 2 * tiles - own)
    rows = slots * keys + (0 if lsh and in_registers else queries)
    return rows * (row + 16) + 4 * (3 * 4 * keys + queries)


def attention_threads(element: int, head_size: int) -> int:
    """Threads of a block of attend_chunk."""
    return 64 if head_size <= 64 or element * head_size > 512 else 128


def hash_bytes(element: int, parts: int, head_size: int) -> int:
    """Shared memory of hash_tokens (hash/tile.cuh): a stage of groups of 8 columns, and their scales."""
    spans = head_size * element // 64
    group = parts * 8 * 64 * (spans + 1 if spans % 2 == 0 else spans)
    batch = 1 if element == 4 or (parts == 3 and head_size == 128) else 2
    return (40 * 1024 // group // batch * batch) * (group + 8 * 4)


# As in the kernels' sources: hash/tile.cuh, prepare.cu, sort/block.cuh, sort/sort.cu, attention/combine.cu,
# norm/norm.cu (type, elements of a piece, pieces of a thread, threads of a row), step/step.cu (at the crime
# shape, with room for 16,384 tokens).
LAUNCHES: Final = {
    r"hash_tokens<.*HashTile<float16, 64>": Launch(256, hash_bytes(2, 2, 64)),
    r"hash_tokens<.*HashTile<float16, 128>": Launch(384, hash_bytes(2, 2, 128)),
    r"hash_tokens<.*HashTile<bfloat16, 64>": Launch(256, hash_bytes(2, 3, 64)),
    r"hash_tokens<.*HashTile<float, 64>": Launch(256, hash_bytes(4, 2, 64)),
    r"hash_tokens<.*HashTile<float, 128>": Launch(256, hash_bytes(4, 2, 128)),
    r"prepare_lsh<float16, true>": Launch(512, 2 * 16 * 1024 + 16 * 8),
    r"prepare_lsh<float16, false>": Launch(512, 0),
    r"count_digits": Launch(256, 4 * 2049),
    r"sum_digits": Launch(256, 4 * 8),
    r"scatter_positions": Launch(256, 2 * 8 * 2048),
    r"finish_segments": Launch(256, 2 * 8 * 2048),
    r"combine_rounds<float16, true, 4>": Launch(256, 0),
    **{
        rf"norm_rows<{shape}>": Launch(128, 0)
        for shape in ("float16, 8, 1, 32", "float16, 8, 4, 32", "float, 4, 2, 32", "float, 4, 8, 32")
    },
    r"step_lsh<float16, true>": Launch(512, 12736 + 16 * 4 * (64 + 2)),
    r"step_lsh<float, true>": Launch(512, 12736 + 16 * 4 * (64 + 2)),
    r"step_local<float16, true>": Launch(256, 8 * 4 * (64 + 2)),
    r"step_local<float, true>": Launch(512, 16 * 4 * (64 + 2)),
    r"combine_step<float16>": Launch(64, 0),
    **{
        rf"attend_chunk<{element}, {size}>": Launch(
            attention_threads(width, size), attention_bytes(width, size, lsh=True)
        )
        for element, width in (("float16", 2), ("float", 4))
        for size in (16, 32, 64, 128, 256)
    },
}


def parse_ptxas(text: str) -> Iterator[Usage]:
    """The kernels of `nvcc -Xptxas -v`, names demangled and without our namespaces."""
    pattern = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        re.DOTALL,
    )
    for mangled, stores, loads, registers in pattern.findall(text):
        yield Usage(demangle(mangled), int(registers), int(stores) + int(loads))


def demangle(name: str) -> str:
    """As the source spells it: needs c++filt, which comes with every C++ compiler."""
    text = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    text = re.sub(r"reformer::cuda::|\(anonymous namespace\)::|^void ", "", text)
    return re.sub(r"\(bool\)1", "true", re.sub(r"\(bool\)0", "false", text))


def compile_kernels(nvcc: Path, arch: str, folder: Path) -> Iterator[Usage]:
    """Compiles every kernel source for one architecture."""
    for source in sorted((PLUGINS / "kernels" / "cuda").rglob("*.cu")):
        command = [
            str(nvcc),
            "-std=c++17",
            "-O3",
            f"-arch=sm_{arch}",
            "--expt-relaxed-constexpr",
            "-Xptxas",
            "-v",
        ]
        command += ["-cubin", "-Iinclude", "-I.", str(source), "-o", str(folder / "kernel.cubin")]
        done = subprocess.run(command, cwd=PLUGINS, capture_output=True, text=True)
        if done.returncode != 0:
            raise click.ClickException(f"{source.name} does not compile for sm_{arch}:\n{done.stderr[:2000]}")
        yield from parse_ptxas(done.stdout + done.stderr)


def render_row(kernel: str, launch: Launch, usages: dict[str, Usage]) -> str:
    """One kernel: for each architecture registers, blocks a multiprocessor, share of its warps."""
    cells = []
    for arch, usage in usages.items():
        limits = MULTIPROCESSORS[arch]
        blocks, bound = launch.blocks(usage.registers, limits)
        share = blocks * launch.threads // WARP / limits.warps
        spill = f", spills {usage.spilled_bytes} B" if usage.spilled_bytes else ""
        cells.append(f"{usage.registers}: {blocks} ({share:.0%}, {bound}{spill})")
    return f"| {kernel} | {launch.threads} | {launch.shared_bytes:,} | {' | '.join(cells)} |"


def render_table(usages: dict[str, list[Usage]]) -> list[str]:
    """A Markdown table of the kernels of LAUNCHES; `usages` by architecture."""
    names = [f"sm_{arch}" for arch in usages]
    lines = [
        f"| kernel | threads | shared, B | {' | '.join(names)} |",
        f"| --- | ---: | ---: |{' --- |' * len(names)}",
    ]
    for pattern, launch in LAUNCHES.items():
        found = {
            arch: next((usage for usage in kernels if re.match(pattern, usage.kernel)), None)
            for arch, kernels in usages.items()
        }
        missing = [arch for arch, usage in found.items() if usage is None]
        if missing:
            raise click.ClickException(f"no kernel {pattern} for sm_{', sm_'.join(missing)}: it was renamed")
        name = next(usage.kernel for usage in found.values() if usage is not None)
        present = {arch: usage for arch, usage in found.items() if usage is not None}
        lines.append(render_row(shorten(name), launch, present))
    return lines


def shorten(kernel: str) -> str:
    """Without arguments and outer template: `hash_tokens<float16, 64>`."""
    return re.sub(r"<HashTile<(.*?)> ?>", r"<\1>", kernel).split("(")[0]


@click.command(help=__doc__)
@click.option("--nvcc", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option(
    "--arch", "archs", multiple=True, type=click.Choice(list(MULTIPROCESSORS)), default=("80", "90")
)
def main(nvcc: Path, archs: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        usages = {arch: list(compile_kernels(nvcc, arch, Path(folder))) for arch in archs}
    click.echo("\n".join(render_table(usages)))
    spilling = [
        f"{shorten(usage.kernel)} on sm_{arch}, {usage.spilled_bytes} B"
        for arch, kernels in usages.items()
        for usage in kernels
        if usage.spilled_bytes
    ]
    click.echo(f"\nSpilling, of all instantiations: {'; '.join(spilling) or 'none'}.")


if __name__ == "__main__":
    main()
