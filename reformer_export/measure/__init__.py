"""Time and memory of an artifact, against eager and against full attention in the same shapes."""

from reformer_export.measure.contenders import Setup, missing_packages
from reformer_export.measure.run import BenchmarkOptions, BenchmarkResult, Measurement, run_benchmark
from reformer_export.measure.timing import Percentiles, time_in_turns

__all__ = [
    "BenchmarkOptions",
    "BenchmarkResult",
    "Measurement",
    "Percentiles",
    "Setup",
    "missing_packages",
    "run_benchmark",
    "time_in_turns",
]
