"""Sweep an artifact over lengths, batches and masks against eager."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.parity.cases import Case, add_num_hashes_cases, check_cases, default_cases, make_inputs
from reformer_export.parity.compare import compare_buckets, output_error, tolerance
from reformer_export.parity.instrumented import InstrumentedModel, open_instrumented
from reformer_export.parity.results import CaseResult, VerifyResult
from reformer_export.reference.eager import EagerReformer, open_eager
from reformer_export.reference.rotations import recorded_rotations
from reformer_export.runtimes import Runtime, load
from reformer_export.runtimes.ort import CPU

ONNXRUNTIME: Final = "onnxruntime"


def verify_artifact(
    folder: Path,
    checkpoint_folder: Path,
    cases: Iterable[Case] | None = None,
    *,
    runtime: str = ONNXRUNTIME,
    engine: str | None = None,
    cuda_graphs: bool = False,
    provider: str = "cpu",
    threads: int | None = None,
    native: NativeMode = "auto",
    seed: int = 0,
    on_result: Callable[[CaseResult], None] | None = None,
) -> VerifyResult:
    """Compare the artifact in `folder` with eager from `checkpoint_folder`, case by case.

    `runtime`, `engine`, `cuda_graphs`, `provider`, `threads` and `native` are `reformer_export.load`'s. With
    an engine the last three are for ONNX Runtime on the CPU, which runs model.onnx with pinned buckets beside
    it. `cases`: the default ones are those that the runtime takes. Cases with fewer rounds of hashing than
    the artifact has are compared with eager on the first of its rounds (see `eager.FirstRounds`).

    Raises:
        ArtifactError: the artifact is broken.
        InputError: a case does not fit the model, or none of an engine's profiles.
    """
    manifest = read_manifest(folder)
    chosen = None if cases is None else list(cases)
    if chosen is not None:
        check_cases(manifest.spec, chosen)
    with _open_runtime(folder, runtime, engine, cuda_graphs, provider, threads, native) as opened:
        if chosen is None:
            swept = add_num_hashes_cases(manifest, default_cases(manifest.spec))
            chosen = [case for case in swept if takes_case(opened, case)]
            check_cases(manifest.spec, chosen)
        is_engine = runtime != ONNXRUNTIME
        where = CPU if is_engine else opened.providers[0]
        library = find_native_library(native) if is_engine else opened.native
        with open_instrumented(folder, manifest, where, threads, library) as instrumented:
            eager = open_eager(checkpoint_folder, manifest)
            sweep = _Sweep(manifest, eager, instrumented, opened, not is_engine, seed)
            results = []
            for case in chosen:
                results.append(sweep.run_case(case))
                if on_result is not None:
                    on_result(results[-1])
        return VerifyResult(_describe_runtime(opened), manifest.dtype, tuple(results))


def _open_runtime(
    folder: Path,
    runtime: str,
    engine: str | None,
    cuda_graphs: bool,
    provider: str,
    threads: int | None,
    native: NativeMode,
) -> Runtime:
    if runtime == ONNXRUNTIME:
        return load(
            folder,
            provider=provider,
            threads=threads,
            native=native,
            engine=engine,
            cuda_graphs=cuda_graphs,
        )
    return load(folder, runtime=runtime, engine=engine, cuda_graphs=cuda_graphs)


def takes_case(runtime: Runtime, case: Case) -> bool:
    """Whether the runtime takes the case's shape: one of its profiles' if it has any, as an engine does."""
    profiles = getattr(runtime, "profiles", None)
    return profiles is None or any(profile.takes(case.batch, case.length) for profile in profiles)


def _describe_runtime(runtime: Runtime) -> str:
    provider = runtime.providers[0]
    if not provider.endswith("ExecutionProvider"):
        return provider
    native = f", native {runtime.native}" if runtime.native else ""
    return f"onnxruntime {provider.removesuffix('ExecutionProvider')}{native}"


@dataclass(frozen=True)
class _Sweep:
    """The three that a case is run on; `reads_buckets` as in `CaseResult`."""

    manifest: Manifest
    eager: EagerReformer
    instrumented: InstrumentedModel
    runtime: Runtime
    reads_buckets: bool
    seed: int

    def run_case(self, case: Case) -> CaseResult:
        """One input on eager, on the instrumented graph with eager's buckets, and on the runtime."""
        spec, dtype = self.manifest.spec, self.manifest.dtype
        ids, mask = make_inputs(spec, case, self.seed)
        truth = self.eager.run(ids, mask, case.num_hashes)
        pinned = self.instrumented.run(ids, mask, truth.buckets, case.num_hashes)
        pinned_error = output_error(pinned.outputs, truth.outputs, mask)
        layers = tuple(
            compare_buckets(
                layer,
                spec,
                dtype,
                pinned.buckets[layer],
                truth.buckets[layer],
                pinned.query_key[layer],
                recorded_rotations(spec, layer),
                mask,
            )
            for layer in spec.lsh_layers
        )
        free_error = output_error(self.runtime.run(ids, mask, case.num_hashes), truth.outputs, mask)
        return CaseResult(
            case,
            pinned_error.worst,
            tolerance(dtype, pinned_error.greatest),
            layers,
            free_error.worst,
            free_error.median,
            self.reads_buckets,
        )
