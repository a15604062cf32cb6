"""The builder's configuration and the build itself. Runs in the building process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reformer_export.artifact.decoding import CAPACITY
from reformer_export.artifact.engine_record import EngineFlags, EngineProfile
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.engine.network import ParsedNetwork
from reformer_export.engine.request import BuildRequest
from reformer_export.errors import EngineError


def build_plan(
    trt: Any,
    log: Any,
    monitor: Any,
    request: BuildRequest,
    parsed: ParsedNetwork,
    compute_capabilities: tuple[str, ...],
) -> memoryview:
    """The serialised engine.

    Raises:
        EngineError: TensorRT refuses an option or cannot build it; its log's error is the cause.
    """
    options = request.options
    config = parsed.builder.create_builder_config()
    config.progress_monitor = monitor
    for profile in options.profiles:
        _add_profile(parsed, config, profile, request)
    _set_flags(trt, config, options.flags)
    if options.runtime == "tensorrt-rtx":
        _set_compute_capabilities(trt, config, compute_capabilities)
    if options.builder_level is not None:
        config.builder_optimization_level = options.builder_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.embed_plugin:
        config.plugins_to_serialize = [request.plugin]
    if request.layers is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.timing_cache is not None:
        _set_timing_cache(config, Path(request.timing_cache))
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        better = "other options" if options.workspace is None else "a greater `workspace` or other options"
        fix = f"give {better}, or see its whole log with `reformer-export --debug engine ...`"
        raise EngineError("engine", f"'{log.cause()}' from TensorRT's builder", "an engine", fix)
    if request.timing_cache is not None:
        Path(request.timing_cache).write_bytes(memoryview(config.get_timing_cache().serialize()))
    return memoryview(plan)


def _add_profile(parsed: ParsedNetwork, config: Any, profile: EngineProfile, request: BuildRequest) -> None:
    """Caches may have room for one token up to `options.capacity`: nothing is tuned for it."""
    options = request.options
    shapes = parsed.builder.create_optimization_profile()
    capacity = options.capacity or 0
    points = [
        {
            **dict(zip(request.dimensions, shape, strict=True)),
            **{CAPACITY: room, NUM_HASHES_INPUT: options.num_hashes or 0},
        }
        for shape, room in (
            (profile.minimum, min(1, capacity)),
            (profile.optimum, capacity),
            (profile.maximum, capacity),
        )
    ]
    for index in range(parsed.network.num_inputs):
        tensor = parsed.network.get_input(index)
        shapes.set_shape(tensor.name, *(_input_shape(tensor, sizes) for sizes in points))
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError("profile", f"{profile}, which TensorRT refuses", "shapes the model takes")


def _input_shape(tensor: Any, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """An input's shape where its symbolic dimensions have the `sizes` of their names."""
    names = (tensor.get_dimension_name(axis) for axis in range(len(tensor.shape)))
    shape = tuple(
        sizes.get(name, 0) if size < 0 else int(size) for size, name in zip(tensor.shape, names, strict=True)
    )
    if 0 in shape:
        fix = "export the checkpoint again with this version"
        raise EngineError(f"input {tensor.name}", f"{shape} for {dict(sizes)}", "sizes by their names", fix)
    return shape


def _set_flags(trt: Any, config: Any, given: EngineFlags) -> None:
    flags = trt.BuilderFlag
    wanted = {
        flags.REFIT: given.refit,
        flags.STRIP_PLAN: given.stripped,
        flags.VERSION_COMPATIBLE: given.version_compatible,
        flags.TF32: given.tf32,
    }
    for flag, value in wanted.items():
        if value:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)  # TF32 is TensorRT's default
    if given.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _set_compute_capabilities(trt: Any, config: Any, compute_capabilities: tuple[str, ...]) -> None:
    config.num_compute_capabilities = len(compute_capabilities)
    for index, text in enumerate(compute_capabilities):
        member = getattr(trt.ComputeCapability, f"SM{text.replace('.', '')}")
        if not config.set_compute_capability(member, index):
            expected = "one that TensorRT-RTX takes"
            raise EngineError("compute_capabilities", text, expected, "leave it out")


def _set_timing_cache(config: Any, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False):
        raise EngineError(
            "timing_cache",
            f"{path}, which is another version's or GPU's",
            "one that this TensorRT wrote on this GPU",
            "remove it or name another",
        )
