"""An artifact's model.onnx or decode.onnx -> OUT/engines/NAME.engine and its record: both whole, or as they
were."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export import __version__
from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.engine_record import (
    EngineRecord,
    PluginRecord,
    engine_path,
    record_path,
    record_text,
)
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME, MODEL_NAME, Manifest, check_files, read_manifest
from reformer_export.contract import LINEAR, OPERATORS
from reformer_export.engine.num_hashes import choose_built_in_num_hashes
from reformer_export.engine.options import EngineOptions
from reformer_export.engine.process import OnLog, OnProgress, run_worker
from reformer_export.engine.profiles import check_capacity, check_profiles, default_capacity, default_profiles
from reformer_export.engine.request import BuildRequest, BuildResult
from reformer_export.engine.staging import StagingPaths, move_into_place, staging_paths
from reformer_export.errors import EngineError, InputError, OutputError
from reformer_export.libraries.tensorrt import TensorRTLibrary, find_tensorrt_library
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.onnx_structure import check_onnx_structure

TIMING_CACHE_NAME: Final = "timing.cache"


@dataclass(frozen=True)
class EngineBuild:
    """An engine that was built: its file, its record and what the user should know."""

    path: Path
    record: EngineRecord
    notes: tuple[str, ...]


def build_engine(
    out: Path,
    options: EngineOptions,
    on_progress: OnProgress = lambda progress: None,
    on_log: OnLog = lambda line: None,
) -> EngineBuild:
    """Build an engine from the artifact in the folder `out`, into its folder `engines`.

    `on_progress` is told how far the build is, `on_log` every warning and error of TensorRT's log.

    Raises:
        ArtifactError: the artifact is not whole, or its files changed.
        InputError: an option does not fit the model or the runtime.
        OutputError: the engine exists and `options.overwrite` is false, or the disk refuses.
        MissingDependencyError: the runtime's package is missing or too old.
        RuntimeUnavailableError: the plugin library is missing or does not fit, or there is no GPU where one
            is needed.
        EngineError: TensorRT refuses the model or an option, or the building process died.
    """
    check_new_engine(out, options)
    manifest = read_manifest(out)
    options = complete_options(out, manifest, options)
    check_files(out, manifest)
    nodes = check_onnx_structure(out / _model_name(options))
    fused = {operator.name for operator in OPERATORS if not operator.has_plugin}
    operators = {name: count for name, count in nodes.items() if name not in fused}
    library = find_tensorrt_library()
    log_fact("plugin library", library.path)
    with staging_paths(out, options.engine_name) as staging:
        request = _make_request(out, options, operators, library, staging)
        dimensions, inlines = manifest.signature.dimensions, LINEAR.name in nodes
        request = dataclasses.replace(request, dimensions=dimensions, inlines=inlines)
        started = time.monotonic()
        with log_phase(f"building with {options.runtime}"):
            result = run_worker(request, on_progress, on_log)
        seconds = time.monotonic() - started
        record = _make_record(manifest, request, result, staging, library, seconds)
        staging.partial_record.write_text(record_text(record), encoding="utf-8")
        move_into_place(staging, _timing_cache(out, options))
    return EngineBuild(staging.engine, record, result.notes)


def check_new_engine(out: Path, options: EngineOptions) -> None:
    """OutputError when the engine exists and may not be replaced; InputError when its name is none."""
    paths = (engine_path(out, options.engine_name), record_path(out, options.engine_name))
    existing = [path for path in paths if path.exists() or path.is_symlink()]
    if existing and not options.overwrite:
        got, fix = f"{existing[0]}, which exists", "use `overwrite=True` or another `name`"
        raise OutputError(f"engine {options.engine_name!r}", got, "a new name", fix)


def complete_options(out: Path, manifest: Manifest, options: EngineOptions) -> EngineOptions:
    """`options` with all that was left to the model; InputError for what the artifact `out` has not."""
    spec = manifest.spec
    if options.decode and manifest.decode is None:
        got, fix = f"an artifact without {DECODE_NAME} ({out})", "export the checkpoint again with `decode`"
        raise InputError("decode", got, "one with it", fix)
    profiles = options.profiles or default_profiles(spec, options.decode)
    check_profiles(spec, profiles)
    capacity = options.capacity
    if options.decode:
        capacity = default_capacity(spec, profiles) if capacity is None else capacity
        check_capacity(spec, profiles, capacity)
    num_hashes = choose_built_in_num_hashes(out, manifest, options.num_hashes)
    return dataclasses.replace(options, profiles=profiles, num_hashes=num_hashes, capacity=capacity)


def _model_name(options: EngineOptions) -> str:
    return DECODE_NAME if options.decode else MODEL_NAME


def _make_request(
    out: Path,
    options: EngineOptions,
    operators: dict[str, int],
    library: TensorRTLibrary,
    staging: StagingPaths,
) -> BuildRequest:
    cache = _timing_cache(out, options)
    if cache is not None and cache.is_file():
        staging.partial_cache.write_bytes(cache.read_bytes())
    return BuildRequest(
        dataclasses.replace(options, timing_cache=None),
        model=str(out.resolve() / _model_name(options)),
        plugin=str(library.path),
        engine=str(staging.partial_engine.resolve()),
        operators=operators,
        timing_cache=None if cache is None else str(staging.partial_cache.resolve()),
        layers=str(staging.partial_layers.resolve()) if options.report_layers else None,
    )


def _timing_cache(out: Path, options: EngineOptions) -> Path | None:
    if options.runtime != "tensorrt":
        return None
    return options.timing_cache or out / ENGINES_NAME / TIMING_CACHE_NAME


def _make_record(
    manifest: Manifest,
    request: BuildRequest,
    result: BuildResult,
    staging: StagingPaths,
    library: TensorRTLibrary,
    seconds: float,
) -> EngineRecord:
    if not staging.partial_engine.is_file():
        raise EngineError("engine", "a build without a file", "one", "please report it")
    options = request.options
    return EngineRecord(
        name=options.engine_name,
        runtime=options.runtime,
        runtime_version=result.runtime_version,
        compute_capabilities=result.compute_capabilities,
        profiles=options.profiles,
        dtype=manifest.dtype,
        model_sha256=manifest.files[_model_name(options)],
        engine_sha256=sha256_of_file(staging.partial_engine),
        engine_bytes=staging.partial_engine.stat().st_size,
        plugin=PluginRecord(
            file_name=library.path.name,
            sha256=sha256_of_file(library.path),
            abi_version=library.abi_version,
            version=library.version,
            embedded=options.embed_plugin,
        ),
        flags=options.flags,
        plugin_layers=result.plugin_layers,
        build_seconds=round(seconds, 3),
        tool_version=__version__,
        num_hashes=options.num_hashes,
        capacity=options.capacity,
    )
