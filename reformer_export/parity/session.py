"""What a comparison with eager needs, opened once: eager, the artifact, and its graph to look into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.libraries.operators import find_native_library
from reformer_export.modeling import TORCH_DTYPES
from reformer_export.parity.cases import (
    Case,
    add_num_hashes_cases,
    check_cases,
    choose_cases,
    default_cases,
    make_inputs,
)
from reformer_export.parity.compare import Precision
from reformer_export.parity.expose import ExposedGraph, ModelGraph, open_graph
from reformer_export.parity.graph_points import find_hashing, find_points, find_rounded
from reformer_export.parity.points import CHOICES, Point
from reformer_export.parity.trial import ModelTrial, Trial
from reformer_export.phases import log_phase
from reformer_export.reference.eager import open_rounded
from reformer_export.reference.runs import Eager
from reformer_export.runtimes import Runtime, RuntimeOptions, load
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.runtimes.ort_session import CPU, Placement
from reformer_export.spec import DType, ModelSpec

ON_CPU: Final = RuntimeOptions(provider="cpu")


@dataclass(frozen=True)
class ParitySession:
    """An artifact beside eager.

    `runtime`: the artifact as it was opened; `graph`: its model.onnx, whose points can be exposed; `hashing`:
    the points of `find_hashing`; `rounded`: those of `find_rounded`; `seed`: of the random inputs.
    """

    manifest: Manifest
    eager: Eager
    runtime: Runtime
    graph: ModelGraph
    hashing: tuple[Point, ...]
    rounded: tuple[Point, ...]
    seed: int

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    @property
    def placement(self) -> Placement:
        """Where ONNX Runtime runs the exposed graph."""
        return self.graph.placement

    @property
    def precision(self) -> Precision:
        """What the graph's arithmetic is judged by."""
        return "tf32" if self.placement.tf32 else self.manifest.dtype

    @property
    def reads_buckets(self) -> bool:
        """Whether the exposed graph runs as the runtime does, so that its buckets are the runtime's. On the
        CPU those of a bfloat16 artifact are bfloat16 kernels' (docs/parity.md)."""
        return getattr(self.runtime, "placement", None) == self.placement

    @property
    def pinned(self) -> list[Point]:
        """What a comparison of the arithmetic alone gives: buckets, memories, and what is rounded to int8."""
        return [*(point for point in self.hashing if point.role in CHOICES), *self.rounded]

    @property
    def pinned_names(self) -> frozenset[str]:
        """Of eager's values that a run of it has to read for that."""
        return frozenset(point.name for point in self.rounded)

    def expose_hashing(self) -> ExposedGraph:
        """The whole graph on buckets and memories that are given; it shows its outputs, and for each LSH
        layer what it hashed and the buckets that it would have chosen, for each product-key memory the same,
        all with given ones in the layers before. What is rounded to int8 is given and shown too."""
        return self.graph.expose(self.pinned, [*self.hashing, *self.rounded])

    def draw(self, case: Case) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The case's ids int64 [B, L], or vectors float32 [B, L, hidden_size], and mask int64 [B, L]: its
        own, or random ones. Vectors are numbers of the artifact's dtype: it and eager then see the same."""
        if case.inputs is None:
            inputs, mask = make_inputs(self.spec, case, self.seed)
        else:
            inputs, mask = case.inputs.ids, case.inputs.mask
        if self.spec.takes_vectors:
            inputs = round_to_dtype(inputs, self.manifest.dtype)
        return inputs, mask

    def trial(self, case: Case) -> Trial:
        """The case's input, on all that are compared."""
        return ModelTrial(self, *self.draw(case), case.num_hashes)

    def default_cases(self) -> list[Case]:
        """What is compared where nobody says what."""
        return add_num_hashes_cases(self.manifest, default_cases(self.spec))

    def choose_cases(self, lengths: Sequence[int] | None, batch_sizes: Sequence[int] | None) -> list[Case]:
        """Every combination of them; None for each that the default cases have."""
        return choose_cases(self.spec, lengths, batch_sizes)

    def check_cases(self, cases: Sequence[Case]) -> None:
        """InputError unless there are cases and each fits the model."""
        check_cases(self.spec, cases)

    def find_points(self, case: Case) -> list[Point]:
        """Every value of the graph that eager has too on the inputs of `case`, in its topological order."""
        return find_points(self.graph.model, self.spec)

    def graph_inputs(
        self, inputs: NDArray[Any], attention_mask: NDArray[np.int64], num_hashes: int | None = None
    ) -> dict[str, NDArray[Any]]:
        """What the exposed graph takes for ids or vectors, and a mask; `num_hashes` None for all."""
        feeds = dict(zip(self.spec.input_names, (inputs, attention_mask), strict=True))
        if self.manifest.runtime_num_hashes is not None:
            rounds = num_hashes or self.manifest.runtime_num_hashes.max_hashes
            feeds[NUM_HASHES_INPUT] = np.array([rounds], np.int64)
        return feeds


def round_to_dtype(values: NDArray[np.float32], dtype: DType) -> NDArray[np.float32]:
    """float32 numbers, each the nearest one that `dtype` has."""
    rounded: NDArray[np.float32] = torch.from_numpy(values).to(TORCH_DTYPES[dtype]).float().numpy()
    return rounded


@contextmanager
def open_session(
    folder: Path,
    checkpoint: Path,
    options: RuntimeOptions = ON_CPU,
    seed: int = 0,
    eager: Eager | None = None,
    beside: RuntimeOptions = ON_CPU,
    manifest: Manifest | None = None,
) -> Iterator[ParitySession]:
    """Open the artifact in `folder` as `options` say, and eager from the checkpoint that it was made from.

    `eager`: that of an earlier session on the same checkpoint; None to load it. `beside`: its `threads` and
    `native` are those of ONNX Runtime on the CPU, which runs model.onnx beside an engine. `manifest`: of an
    artifact whose manifest.json is still to be written; None to read it.

    Raises:
        ArtifactError: the artifact is broken.
        MissingDependencyError: the runtime, or onnx, is not installed.
        RuntimeUnavailableError: this machine cannot run it.
    """
    with load(folder, options) if manifest is None else OnnxRuntime(folder, options, manifest) as runtime:
        manifest = runtime.manifest
        with open_graph(folder / MODEL_NAME, place_graph(runtime, options, beside)) as graph:
            hashing = tuple(find_hashing(graph.model, manifest.spec))
            rounded = tuple(find_rounded(graph.model, manifest.spec))
            if eager is None:
                with log_phase(f"loading eager from {checkpoint}"):
                    eager = open_rounded(checkpoint, manifest)
            yield ParitySession(manifest, eager, runtime, graph, hashing, rounded, seed)


def place_graph(runtime: Runtime, options: RuntimeOptions, beside: RuntimeOptions) -> Placement:
    """Where the exposed graph runs: in the runtime's own place; of an engine on the CPU, as `beside` says."""
    if isinstance(runtime, OnnxRuntime):
        return runtime.placement
    chosen = beside if options.is_engine else options
    return Placement(CPU, chosen.threads, find_native_library(chosen.native))
