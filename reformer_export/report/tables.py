"""Results -> tables: which columns there are and how a value is written, once for terminal and page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from reformer_export.report.ranges import write_rate, write_ratio

if TYPE_CHECKING:
    from reformer_export.artifact.engine_record import EngineRecord
    from reformer_export.libraries.build import LibraryBuild
    from reformer_export.libraries.state import LibraryState
    from reformer_export.measure.accuracy import AccuracyRow
    from reformer_export.measure.decoders import DecodeName
    from reformer_export.measure.decoding import DecodeMeasurement, DecodeResult
    from reformer_export.measure.decoding_memory import DecodeMemory
    from reformer_export.measure.run import BenchmarkResult, Measurement
    from reformer_export.parity.cost import ArtifactCost, CostResult
    from reformer_export.parity.decoding_results import Check, DecodingResult
    from reformer_export.parity.results import CaseResult, VerifyResult
    from reformer_export.report.verify_report import DataAccuracy
    from reformer_export.runtimes.machine import Library, MachineReport

from reformer_export.parity.decoding_results import CHECKS

T = TypeVar("T")
Columns = Mapping[str, Callable[[T], object]]
"""A column's name -> what it says of a row; None stands as "-"."""


@dataclass(frozen=True)
class Table:
    """Rows of texts under named columns; the columns of facts, a name and a text each, have no names."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def make_table(caption: str, columns: Columns[T], rows: Iterable[T]) -> Table:
    """What `columns` say of each of `rows`."""
    values = ([read(row) for read in columns.values()] for row in rows)
    texts = (tuple("-" if value is None else str(value) for value in row) for row in values)
    return Table(caption, tuple(columns), tuple(texts))


def make_facts(caption: str, facts: Iterable[tuple[str, str]]) -> Table:
    """A table of facts."""
    return Table(caption, ("", ""), tuple(facts))


CASES: Final[Columns[CaseResult]] = {
    "case": lambda result: result.case,
    "pinned error": lambda result: f"{result.pinned_error:.1e}",
    "tolerance": lambda result: f"{result.tolerance:.1e}",
    "hashes": lambda result: f"{result.hashed:,}",
    "flips": lambda result: result.flips,
    "unexplained": lambda result: result.unexplained,
    "worst margin": lambda result: (
        f"{max(layer.worst_margin for layer in result.layers):.1e}" if result.flips else None
    ),
    "free error": lambda result: f"{result.free_error:.1e}",
    "passed": lambda result: "ok" if result.passed else "FAILED",
}

ACCURACY: Final[Columns[AccuracyRow]] = {
    "hashes": lambda row: row.num_hashes,
    "loss (nats/token)": lambda row: f"{row.loss:.4f}",
    "bits/character": lambda row: f"{row.bits_per_character:.4f}",
    "tokens/s": lambda row: f"{row.tokens_per_second:,.0f}",
    "tokens predicted": lambda row: f"{row.tokens:,}",
}

LIBRARIES: Final[Columns[Library]] = {
    "package": lambda library: library.name,
    "version": lambda library: library.version or f"missing: {library.install}",
    "for": lambda library: library.purpose,
}

NATIVE_LIBRARIES: Final[Columns[LibraryState]] = {
    "code": lambda state: state.name,
    "found": lambda state: state.found,
    "runs here": lambda state: state.runs or "no",
}


DECODERS: Final[Mapping[DecodeName, str]] = {
    "artifact": "artifact",
    "artifact-passes": "artifact, whole passes",
    "eager-passes": "eager, whole passes",
    "eager-cache": "eager with its cache (other numbers)",
}
"""The contenders of a benchmark of decoding, as people read them."""


def sweep_table(folder: Path, sweep: VerifyResult) -> Table:
    """A row for each case of a sweep over the artifact in `folder`."""
    allowed = sweep.given_tolerance
    given = "" if allowed is None else f", tolerance {allowed}"
    return make_table(f"{folder} against eager ({sweep.runtime}, {sweep.dtype}{given})", CASES, sweep.cases)


def decoding_parity_table(folder: Path, decoding: DecodingResult) -> Table:
    """A row for each kind of comparison of decode.onnx."""
    columns: Columns[Check] = {
        "decode.onnx": lambda check: CHECKS[check],
        "comparisons": lambda check: f"{len(decoding.of(check)):,}",
        "nearest to failing": lambda check: decoding.worst(check).where,
        "error": lambda check: f"{decoding.worst(check).error:.1e}",
        "tolerance": lambda check: f"{decoding.worst(check).tolerance:.1e}",
        "passed": lambda check: "ok" if decoding.worst(check).passed else "FAILED",
    }
    return make_table(f"{folder}, decode.onnx ({decoding.runtime})", columns, decoding.checks)


def accuracy_table(data: DataAccuracy) -> Table:
    """A row for each number of hashes."""
    result = data.accuracy
    caption = f"{data.name}: {result.sequences} sequences of {result.sequence_length} tokens"
    return make_table(caption, ACCURACY, result.rows)


def cost_table(cost: CostResult) -> Table:
    """A row for each artifact of one checkpoint, beside the original."""

    def rate(value: float | None) -> str | None:
        return None if value is None else f"{value:.2%}"

    def bits(value: float | None, form: str = ".4f") -> str | None:
        return None if value is None else format(value, form)

    columns: Columns[ArtifactCost] = {
        "artifact": lambda row: row.name,
        "precision": lambda row: row.precision,
        "MB": lambda row: f"{row.nbytes / 1e6:,.1f}",
        "tokens/s": lambda row: f"{row.tokens_per_second:,.0f}",
        "hashes flipped": lambda row: rate(row.flip_rate) if row.layers else None,
        "worst layer": lambda row: (
            rate(max(each.flips / max(each.hashed, 1) for each in row.layers)) if row.layers else None
        ),
        "same token first": lambda row: rate(row.agreement),
        "bits/character": lambda row: bits(row.bits_per_character),
        "lost": lambda row: bits(cost.loss(row), "+.4f"),
    }
    where = "random inputs" if cost.text is None else cost.text
    original = "" if cost.bits_per_character is None else f" ({cost.bits_per_character:.4f} bits/character)"
    caption = (
        f"Cost beside the original in float32{original}, not judged: {where}, {cost.sequences} sequences of "
        f"{cost.length:,} tokens"
    )
    return make_table(caption, columns, cost.artifacts)


def measurements_table(caption: str, result: BenchmarkResult) -> Table:
    """A row for each contender at each shape."""
    columns: Columns[Measurement] = {
        "batch": lambda row: row.batch,
        "length": lambda row: f"{row.length:,}",
        "contender": lambda row: row.name,
        "passes": lambda row: len(row.seconds),
        "p50 ms": lambda row: f"{row.latency.p50:,.2f}",
        **_percentile_columns(result),
        "tokens/s": lambda row: f"{row.tokens_per_second:,.0f}",
        "peak MB": lambda row: None if row.memory is None else f"{row.memory.peak_bytes / 1e6:,.0f}",
        "artifact faster": lambda row: "" if row.name == "artifact" else f"{result.ratio(row):.2f} x",
    }
    return make_table(caption, columns, result.measurements)


def _percentile_columns(result: BenchmarkResult) -> Columns[Measurement]:
    """p90 and p99, each where enough passes were made for it at some shape."""
    columns: Columns[Measurement] = {
        "p90 ms": lambda row: None if row.latency.p90 is None else f"{row.latency.p90:,.2f}",
        "p99 ms": lambda row: None if row.latency.p99 is None else f"{row.latency.p99:,.2f}",
    }
    rows = result.measurements
    return {name: read for name, read in columns.items() if any(read(row) is not None for row in rows)}


def decode_times_table(caption: str, result: DecodeResult) -> Table:
    """A row for each contender at each batch and context."""

    def megabytes(read: Callable[[DecodeMemory], int]) -> Callable[[DecodeMeasurement], str | None]:
        return lambda row: None if row.memory is None else f"{read(row.memory) / 1e6:,.1f}"

    columns: Columns[DecodeMeasurement] = {
        "batch": lambda row: row.batch,
        "context": lambda row: f"{row.length:,}",
        "contender": lambda row: DECODERS[row.name],
        "prompt ms": lambda row: f"{row.prompt.p50:,.1f}",
        "steps": lambda row: len(row.step_seconds),
        "ms a step": lambda row: f"{row.step.p50:,.2f}",
        "p90 ms": lambda row: None if row.step.p90 is None else f"{row.step.p90:,.2f}",
        "tokens/s": lambda row: write_rate(row.tokens_per_second),
        "artifact faster": lambda row: (
            "" if row.name == "artifact" else f"{write_ratio(result.ratio(row))} x"
        ),
    }
    memory: Columns[DecodeMeasurement] = {
        "cache MB": megabytes(lambda memory: memory.cache_bytes),
        "held MB": megabytes(lambda memory: memory.growth_bytes),
        "peak MB": megabytes(lambda memory: memory.peak_bytes),
    }
    if result.memory_measured:
        columns = {**columns, **memory}
    return make_table(caption, columns, result.measurements)


def engine_table(caption: str, record: EngineRecord, *more: tuple[str, str]) -> Table:
    """An engine's record in words, and `more` facts."""
    flags = {
        "weights can be exchanged": record.flags.refit,
        "weights left out": record.flags.stripped,
        "loads in newer TensorRT versions": record.flags.version_compatible,
        "runs on every GPU from Ampere on": record.flags.hardware_compatible,
        "float32 products in TF32": record.flags.tf32,
    }
    plugin = record.plugin
    carried = "in the engine" if plugin.embedded else "loaded beside it"
    layers = ", ".join(f"{count} {name}" for name, count in record.plugin_layers.items())
    profiles = (
        (f"profile {index}: min / opt / max", str(profile)) for index, profile in enumerate(record.profiles)
    )
    facts = [
        ("runtime", f"{record.runtime} {record.runtime_version}"),
        ("compute capabilities", ", ".join(record.compute_capabilities)),
        ("dtype", record.dtype),
        ("built from", record.model_name),
        *([] if record.num_hashes is None else [("hashes", f"{record.num_hashes}, built in")]),
        *([] if record.capacity is None else [("caches", f"up to {record.capacity:,} tokens a sequence")]),
        *profiles,
        ("plugin layers", layers or "none"),
        ("plugin library", f"{plugin.file_name} {plugin.version} (ABI {plugin.abi_version}), {carried}"),
        ("code for the host", record.host_code or "none"),
        ("built with", ", ".join(words for words, value in flags.items() if value) or "no special options"),
        ("size", f"{record.engine_bytes:,} B"),
        ("built in", f"{record.build_seconds:.1f} s by reformer-export {record.tool_version}"),
    ]
    return make_facts(caption, [*facts, *more])


def library_build_table(build: LibraryBuild) -> Table:
    """What was built, and where it lies."""
    record = build.record
    cuda = ", ".join(f"sm_{number}" for number in record.architectures)
    files = ((name, f"{file.size:,} B, SHA-256 {file.sha256}") for name, file in record.files.items())
    facts = [("CUDA kernels for", cuda or "none"), *files, ("built in", f"{record.seconds:.0f} s")]
    return make_facts(f"Native libraries in {build.folder}", facts)


def machine_tables(machine: MachineReport) -> list[Table]:
    """What can be run here, and what is missing."""
    gpus = machine.gpus or ("no NVIDIA GPU found",)
    facts = [
        ("Python", machine.python),
        ("platform", machine.platform),
        *(("GPU", gpu) for gpu in gpus),
        ("ONNX Runtime", ", ".join(machine.providers) or "missing: no artifact can be run"),
        *([("its CUDA provider", machine.cuda_problem)] if machine.cuda_problem else []),
    ]
    engines = [
        *machine.tensorrt.runtimes,
        ("GPU", machine.tensorrt.gpu),
        ("engines run here with", ", ".join(machine.tensorrt.can_run) or "none"),
    ]
    commands = (
        (command.name, f"needs {', '.join(command.missing)}" if command.missing else "ready")
        for command in machine.commands
    )
    tables = [
        make_facts("Machine", facts),
        make_table("Native libraries", NATIVE_LIBRARIES, machine.native),
        make_facts("TensorRT", engines),
        make_table("Libraries", LIBRARIES, machine.libraries),
        make_facts("Commands", commands),
    ]
    if machine.artifact is not None:
        problem = machine.artifact.problem
        verdict = [("can run here", "yes")] if problem is None else [("can run here", "no"), ("why", problem)]
        notes = [("note", note) for note in machine.artifact.notes]
        tables.append(make_facts(f"Artifact {machine.artifact.path}", verdict + notes))
    return tables
