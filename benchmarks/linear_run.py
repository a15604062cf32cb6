"""Times the graphs that `bench_linear.py` made, in turns, with NumPy, ONNX Runtime and the operator library.

    python linear_run.py [--threads 1 16] [--seconds 4]

Runs in the folder that holds it, the library and the graphs, with nothing installed from this repository.
Weights are drawn here: times do not depend on them.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

FOLDER: Final = Path(__file__).resolve().parent
LIBRARY: Final = FOLDER / "libreformer_onnxruntime.so"
LEAST_TURNS: Final = 5


def draw_weights(graph: dict[str, Any]) -> None:
    """The file of weights that the graph names, unless it is there."""
    path = FOLDER / graph["weights"]
    if path.exists() and path.stat().st_size == graph["bytes"]:
        return
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for tensor in graph["tensors"]:
            file.seek(tensor["offset"])
            if tensor["type"] == "int8":
                values = rng.integers(-127, 128, tensor["count"], np.int8)
            else:
                values = rng.standard_normal(tensor["count"], np.float32) * np.float32(0.02)
                if tensor["type"] == "bfloat16":
                    values = (values.view(np.uint32) >> 16).astype(np.uint16)
            file.write(values.tobytes())


def open_session(graph: dict[str, Any], threads: int) -> Any:
    import onnxruntime

    draw_weights(graph)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(
        str(FOLDER / graph["file"]), options, providers=["CPUExecutionProvider"]
    )


def open_sessions(graphs: dict[str, Any], threads: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Those that this machine has kernels for."""
    sessions = {}
    for name, graph in graphs.items():
        try:
            sessions[name] = (open_session(graph, threads), graph)
        except Exception as error:
            print(f"{graph['file']} not here: {str(error).splitlines()[0][:160]}")
    return sessions


def make_feeds(graph: dict[str, Any], length: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    if graph["kind"] == "kernel":
        return {"x": rng.standard_normal((1, length, graph["size"]), np.float32)}
    ids = rng.integers(1, graph["vocabulary"], (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def time_in_turns(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each, one turn of all after another; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    turn = 0
    while turn <= LEAST_TURNS or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
        turn += 1
    return times


def describe(group: str, length: int, times: dict[str, list[float]], flops: float) -> dict[str, Any]:
    """One line of the table, printed."""
    first = next(iter(times))
    rows = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times[first], seconds, strict=True)]
        median = statistics.median(seconds)
        rows[name] = {"ms": median * 1e3, "gflops": flops / median / 1e9, "faster": statistics.median(ratios)}
    text = "   ".join(
        f"{name} {row['ms']:9.3f} ms {row['gflops']:7.0f} GFLOP/s {row['faster']:5.2f} x"
        for name, row in rows.items()
    )
    print(f"{group:28} {length:6}   {text}", flush=True)
    return {"group": group, "length": length, "times": rows}


def describe_library() -> str:
    """Versions and instructions as the library says them (reformer_library of its header)."""

    class Info(ctypes.Structure):
        _fields_ = [("struct_size", ctypes.c_uint32), ("abi_version", ctypes.c_uint32)] + [
            (name, ctypes.c_char_p) for name in ("version", "cpu", "cuda", "int8", "bfloat16", "float32")
        ]

    info = Info(struct_size=ctypes.sizeof(Info))
    ctypes.CDLL(str(LIBRARY)).reformer_library_info(ctypes.byref(info))
    names = {name: getattr(info, name) for name in ("int8", "bfloat16", "float32")}
    products = ", ".join(f"{name} with {of.decode() if of else 'none'}" for name, of in names.items())
    return f"{info.cpu.decode()}, {products}"


def describe_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each contender of a line")
    parser.add_argument("--only", default="", help="part of the name of a group")
    parser.add_argument("--json", type=Path, default=FOLDER / "linear.json")
    chosen = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    layout = json.loads((FOLDER / "graphs.json").read_text())
    machine = f"{describe_processor()}; {describe_library()}"
    print(machine)
    found = []
    for threads in dict.fromkeys(chosen.threads):
        print(f"{threads} threads")
        for group, graphs in layout.items():
            if chosen.only not in group:
                continue
            sessions = open_sessions(graphs, threads)
            for length in next(iter(graphs.values()))["lengths"]:
                runs = {
                    name: functools.partial(session.run, None, make_feeds(graph, length))
                    for name, (session, graph) in sessions.items()
                }
                flops = next(iter(graphs.values()))["flops_per_token"] * length
                times = time_in_turns(runs, chosen.seconds)
                found.append({"threads": threads, **describe(group, length, times, flops)})
    chosen.json.write_text(json.dumps({"machine": machine, "results": found}, indent=1))


if __name__ == "__main__":
    main()
