"""Hashes trained with against hashes evaluated with, on the duplication task, from exported files.

The models in models/duplication copy a random word of 511 symbols, as in section 2.1 of the Reformer paper.
Each is exported with 1, 2, 4 and 8 hashes and with full attention, and ONNX Runtime runs it on the same
held-out sequences. The table goes to models/duplication/table.json and, beside the paper's, to the README.md
there.

    python -m benchmarks.duplication_table
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import reformer_export
from benchmarks.report import Row, describe_machine, print_table

MODELS: Final = Path(__file__).parents[1] / "models" / "duplication"
TRAINED: Final = ("full", "lsh-4", "lsh-2", "lsh-1")
EVALUATED: Final = ("full", "lsh-8", "lsh-4", "lsh-2", "lsh-1")
CHUNK_LENGTH: Final = 16
HALF_LENGTH: Final = 512
"""Tokens of the separator and the word; a sequence has two such halves."""

PAPER: Final[dict[str, tuple[float, ...]]] = {
    "full": (100, 94.8, 92.5, 76.9, 52.5),
    "lsh-4": (0.8, 100, 99.9, 99.4, 91.9),
    "lsh-2": (0.8, 100, 99.9, 98.1, 86.8),
    "lsh-1": (0.8, 99.9, 99.6, 94.8, 77.9),
}
"""Per cent, in the order of EVALUATED: Table 2 of Kitaev et al. 2020 (arXiv 2001.04451)."""

_NAMES: Final = {"full": "full attention"} | {f"lsh-{count}": f"LSH-{count}" for count in (1, 2, 4, 8)}
_BEGIN, _END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def draw_held_out(count: int, seed: int = 2020) -> NDArray[np.int64]:
    """`count` sequences 0w0w of random words, token ids int64 [count, 2 * HALF_LENGTH]."""
    words = np.random.default_rng(seed).integers(1, 128, (count, HALF_LENGTH - 1), dtype=np.int64)
    half = np.pad(words, ((0, 0), (1, 0)))
    return np.concatenate([half, half], axis=1)


def export_variant(checkpoint: Path, evaluated: str, hash_seed: int, artifact: Path) -> None:
    """Export `checkpoint` to the new folder `artifact` with the attention `evaluated`.

    `evaluated` is `full` or `lsh-` and the number of hashes. Full attention is a chunk as long as the
    sequence, which both `transformers` and the operator compute as one dense block. The export has no option
    for the chunk length, so a copy of config.json says it.
    """
    full = evaluated == "full"
    with tempfile.TemporaryDirectory() as folder:
        variant = Path(shutil.copytree(checkpoint, Path(folder) / checkpoint.name))
        config = json.loads((variant / "config.json").read_text(encoding="utf-8"))
        config["lsh_attn_chunk_length"] = 2 * HALF_LENGTH if full else CHUNK_LENGTH
        (variant / "config.json").write_text(json.dumps(config), encoding="utf-8")
        num_hashes = 1 if full else int(evaluated.removeprefix("lsh-"))
        reformer_export.export_checkpoint(
            variant, artifact, num_hashes=num_hashes, hash_seed=hash_seed, verify=False
        )


def measure_accuracy(
    artifact: Path, sequences: NDArray[np.int64], threads: int | None = None, batch: int = 10
) -> float:
    """Share of the second word's symbols in `sequences` that the artifact predicts, from 0 to 1."""
    hits = 0
    with reformer_export.load(artifact, provider="cpu", threads=threads) as model:
        for start in range(0, len(sequences), batch):
            ids = sequences[start : start + batch]
            predicted = model.run(ids)["logits"][:, HALF_LENGTH:-1].argmax(axis=-1)
            hits += int((predicted == ids[:, HALF_LENGTH + 1 :]).sum())
    return hits / (len(sequences) * (HALF_LENGTH - 1))


def measure_cell(
    trained: str, evaluated: str, sequences: NDArray[np.int64], hash_seeds: int, threads: int
) -> list[float]:
    """Accuracy for each of the hash seeds 0, 1, ...; a single one for full attention, which draws nothing."""
    accuracies = []
    for hash_seed in range(1 if evaluated == "full" else hash_seeds):
        with tempfile.TemporaryDirectory() as folder:
            artifact = Path(folder) / "artifact"
            export_variant(MODELS / trained, evaluated, hash_seed, artifact)
            accuracies.append(measure_accuracy(artifact, sequences, threads))
        print(f"{trained} with {evaluated}, hash seed {hash_seed}: {accuracies[-1]:.2%}", flush=True)
    return accuracies


def make_rows(cells: dict[str, dict[str, list[float]]]) -> list[Row]:
    """Mean over the hash seeds in per cent, and in brackets the paper's figure, for every pair."""
    rows = []
    for trained, columns in cells.items():
        row = {"trained \\ evaluated": _NAMES[trained]}
        for evaluated, paper in zip(EVALUATED, PAPER[trained], strict=True):
            row[_NAMES[evaluated]] = f"**{100 * statistics.mean(columns[evaluated]):.1f}** ({paper})"
        rows.append(row)
    return rows


def write_table(rows: list[Row], data: dict[str, Any]) -> None:
    """`data` to table.json, and `rows` between the marks in README.md."""
    (MODELS / "table.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    readme = MODELS / "README.md"
    before, begin, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(
            f"{readme}: got no lines {_BEGIN.strip()} and {_END.strip()}, expected both; add them"
        )
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" + " ---: |" * (len(rows[0]) - 1)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    readme.write_text(before + begin + "\n".join(lines) + "\n" + end + after, encoding="utf-8")


def main() -> None:
    """Measure every pair, print the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sequences", type=int, default=200, help="held-out sequences (default: 200)")
    parser.add_argument("--hash-seeds", type=int, default=5, help="draws of the rotations (default: 5)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    sequences = draw_held_out(options.sequences)
    cells = {
        trained: {
            evaluated: measure_cell(trained, evaluated, sequences, options.hash_seeds, options.threads)
            for evaluated in EVALUATED
        }
        for trained in TRAINED
    }
    rows = make_rows(cells)
    print_table("Accuracy in per cent (in brackets: the paper)", rows)
    data = {
        "sequences": options.sequences,
        "accuracy": {
            t: {e: [round(a, 6) for a in seeds] for e, seeds in row.items()} for t, row in cells.items()
        },
        "paper_percent": {t: dict(zip(EVALUATED, row, strict=True)) for t, row in PAPER.items()},
        "machine": describe_machine(),
    }
    write_table(rows, data)


if __name__ == "__main__":
    main()
