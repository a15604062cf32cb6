"""Which files a repository gets, and from where; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.engine_record import (
    ENGINE_SUFFIX,
    RECORD_SUFFIX,
    EngineRecord,
    engine_path,
    list_engines,
    read_engine_record,
    record_path,
)
from reformer_export.artifact.files import resolve_inside
from reformer_export.artifact.manifest import ENGINES_NAME, MANIFEST_NAME, Manifest
from reformer_export.errors import ArtifactError, InputError
from reformer_export.libraries.operators import NativeLibrary, find_native_library
from reformer_export.serving.triton.config import (
    PLAN_NAME,
    generate_config,
    onnxruntime_config,
    python_config,
    tensorrt_config,
)
from reformer_export.serving.triton.options import GENERATE_SUFFIX, TritonRequest
from reformer_export.serving.triton.record import CONFIG_NAME, VERSION
from reformer_export.serving.triton.server import ARTIFACT_FOLDER
from reformer_export.serving.triton.text_format import text_from_message

ENGINE_RECORD_NAME = "engine.json"

MODEL_PY = '''"""Written by reformer-export: Triton's python backend runs the artifact beside this file."""

try:
    from reformer_export.serving.triton.{module} import {name} as TritonPythonModel
except ImportError as error:
    raise ImportError(
        f"{{error}}; expected reformer-export {version} or later in the environment of Triton's python "
        "backend: pip install 'reformer-export[cpu]', or [gpu] (README.md of the repository)"
    ) from error

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class PlannedFile:
    """A file at `path` from the repository's root: a copy of `source`, which must have the SHA-256 `sha256`
    where that is known; or `text`."""

    path: str
    source: Path | None = None
    sha256: str | None = None
    text: str = ""

    @property
    def size(self) -> int:
        """Bytes that are copied."""
        return 0 if self.source is None else self.source.stat().st_size


@dataclass(frozen=True)
class RepositoryPlan:
    """All files of a repository but README.md and the record, and what a record says of them.

    `configs` are the models' configurations by name; `manifest` and `engine_record` are paths from the root.
    """

    files: tuple[PlannedFile, ...]
    configs: dict[str, dict[str, Any]]
    manifest: str
    library: NativeLibrary | None = None
    library_path: str | None = None
    engines: tuple[EngineRecord, ...] = ()
    engine_record: str | None = None
    notes: tuple[str, ...] = ()


def plan_repository(
    out: Path, repository: Path, manifest: Manifest, request: TritonRequest, version: str
) -> RepositoryPlan:
    """The files for the artifact in the folder `out`; `repository` is where they will be, `version` this
    package's.

    Raises:
        InputError: an option does not fit the artifact.
        ArtifactError: a file or an engine is missing.
        RuntimeUnavailableError: the operator library is asked for and there is none, or it does not fit.
    """
    _check_dimensions(manifest, request)
    if request.backend == "python":
        plan = _plan_python(out, manifest, request, version)
    elif request.backend == "onnxruntime":
        plan = _plan_onnxruntime(out, repository, manifest, request)
    else:
        plan = _plan_tensorrt(out, manifest, request)
    texts = [
        PlannedFile(f"{name}/{CONFIG_NAME}", text=text_from_message(config))
        for name, config in plan.configs.items()
    ]
    return replace(plan, files=(*plan.files, *texts))


def _check_dimensions(manifest: Manifest, request: TritonRequest) -> None:
    """InputError for what Triton's own backends cannot take: a number without any dimension, of which the
    python backend makes one."""
    if request.backend == "python" and all(each.shape for each in manifest.inputs):
        return
    scalar = next((each for each in (*manifest.inputs, *manifest.outputs) if not each.shape), None)
    if scalar is not None:
        fix = 'give it one in the module, or use `backend="python"` for an output'
        raise InputError("artifact", f"{scalar.name} without a dimension", "one at least", fix)


def _plan_python(out: Path, manifest: Manifest, request: TritonRequest, version: str) -> RepositoryPlan:
    options = request.runtime_options()
    engines = tuple(_choose_engines(out, manifest, request)) if options.is_engine else ()
    configs = {request.name: python_config(manifest, request)}
    models = {request.name: ("joined_model", "JoinedModel")}
    if manifest.spec.task == "text-generation":
        name = request.name + GENERATE_SUFFIX
        configs[name] = generate_config(request)
        models[name] = ("generate_model", "GenerateModel")
    files = []
    for name, (module, model) in models.items():
        text = MODEL_PY.format(module=module, name=model, version=version)
        folder = f"{name}/{VERSION}/{ARTIFACT_FOLDER}"
        files += [
            PlannedFile(f"{name}/{VERSION}/model.py", text=text),
            *_artifact_files(out, manifest, folder),
        ]
        for record in engines:
            for source, suffix in ((engine_path, ENGINE_SUFFIX), (record_path, RECORD_SUFFIX)):
                path = f"{folder}/{ENGINES_NAME}/{record.name}{suffix}"
                sha256 = record.engine_sha256 if suffix == ENGINE_SUFFIX else None
                files.append(PlannedFile(path, source(out, record.name), sha256))
    notes = []
    if len(models) == 2 and manifest.decode is None:
        notes.append(
            f"Without {DECODE_NAME} every new token takes a whole pass: `reformer-export onnx --decode` "
            "exports one."
        )
    place = f"{request.name}/{VERSION}/{ARTIFACT_FOLDER}/{MANIFEST_NAME}"
    return RepositoryPlan(tuple(files), configs, place, engines=engines, notes=tuple(notes))


def _plan_onnxruntime(
    out: Path, repository: Path, manifest: Manifest, request: TritonRequest
) -> RepositoryPlan:
    if manifest.dtype == "bfloat16" and request.provider != "cuda":
        got, fix = f"{request.provider} for bfloat16", 'use `provider="cuda"`, or `backend="python"`'
        raise InputError("provider", got, "cuda: ONNX Runtime has no bfloat16 kernels for the CPU", fix)
    if request.tf32 and manifest.dtype != "float32":
        raise InputError("tf32", f"it for {manifest.dtype}", "float32", "leave it out")
    folder = f"{request.name}/{VERSION}"
    library = find_native_library(request.native)
    files, notes, place, path = list(_artifact_files(out, manifest, folder)), [], None, None
    if library is not None:
        path = f"{folder}/{library.path.name}"
        place = f"{(request.mounted_at or str(repository)).rstrip('/')}/{path}"
        files.append(PlannedFile(path, library.path))
        if request.provider == "cuda" and library.cuda_architectures is None:
            notes.append(
                "The operator library has no CUDA kernels: generic operators run on the GPU, many times "
                "slower. `reformer-export build-library --cuda` builds one."
            )
    else:
        notes.append("There is no operator library: the server runs the function bodies in model.onnx.")
    configs = {request.name: onnxruntime_config(manifest, request, place)}
    return RepositoryPlan(
        tuple(files), configs, f"{folder}/{MANIFEST_NAME}", library, path, notes=tuple(notes)
    )


def _plan_tensorrt(out: Path, manifest: Manifest, request: TritonRequest) -> RepositoryPlan:
    engines = tuple(_choose_engines(out, manifest, request))
    if len(engines) > 1:
        names = ", ".join(record.name for record in engines)
        raise InputError("engine", f"none of {names}", "the one to serve", "name one with `engine`")
    record = engines[0]
    if not record.plugin.embedded:
        expected = "one that carries its plugins: Triton's tensorrt backend registers no others"
        fix = "build it again with `reformer-export engine OUT --embed-plugin`"
        raise InputError("engine", f"{record.name}, whose plugin library lies beside it", expected, fix)
    folder = f"{request.name}/{VERSION}"
    files = (
        PlannedFile(f"{folder}/{PLAN_NAME}", engine_path(out, record.name), record.engine_sha256),
        PlannedFile(f"{folder}/{ENGINE_RECORD_NAME}", record_path(out, record.name)),
        PlannedFile(f"{folder}/{MANIFEST_NAME}", out / MANIFEST_NAME),
    )
    configs = {request.name: tensorrt_config(manifest, request, record)}
    batch = configs[request.name]["max_batch_size"]
    notes: tuple[str, ...] = ()
    if batch < request.max_batch_size:
        notes = (f"max_batch_size is {batch}, the most that all profiles of the engine take.",)
    return RepositoryPlan(
        files,
        configs,
        f"{folder}/{MANIFEST_NAME}",
        engines=engines,
        engine_record=f"{folder}/{ENGINE_RECORD_NAME}",
        notes=notes,
    )


def _artifact_files(out: Path, manifest: Manifest, folder: str) -> Iterator[PlannedFile]:
    yield PlannedFile(f"{folder}/{MANIFEST_NAME}", out / MANIFEST_NAME)
    for name, sha256 in manifest.files.items():
        source = resolve_inside(out, name)
        if not source.is_file():
            raise ArtifactError(out / name, "no such file", "it beside the manifest", "export again")
        yield PlannedFile(f"{folder}/{name}", source, sha256)


def _choose_engines(out: Path, manifest: Manifest, request: TritonRequest) -> list[EngineRecord]:
    """The engines of whole sequences that are meant, at least one; for the python backend then those that
    decode, of which its runtime chooses."""
    runtime, named = request.chosen_runtime, request.engine
    records = []
    for name in dict.fromkeys((*([named] if named else []), *list_engines(out))):
        try:
            records.append(read_engine_record(out, name))
        except ArtifactError:
            if named in (None, name):
                raise
    alike = [record for record in records if record.runtime == runtime]
    fitting = [record for record in alike if not record.decodes and named in (None, record.name)]
    if not fitting:
        raise _no_engine(out, request, records)
    if request.backend == "python":
        fitting += [record for record in alike if record.decodes]
    for record in fitting:
        _check_engine(record, manifest, request)
    return fitting


def _no_engine(out: Path, request: TritonRequest, records: list[EngineRecord]) -> InputError:
    runtime = request.chosen_runtime
    found = [record for record in records if request.engine in (None, record.name)]
    others = ", ".join(
        f"{record.name} (of {record.runtime}{', which decodes' if record.decodes else ''})"
        for record in found
    )
    fix = f"build one with `reformer-export engine OUT --runtime {runtime} --embed-plugin`"
    if any(record.runtime != runtime for record in found):
        other = next(record.runtime for record in found if record.runtime != runtime)
        fix += f', or serve that of {other} with `backend="python"` and `runtime="{other}"`'
    return InputError("engine", others or f"no engine in {out}", f"an engine of {runtime}", fix)


def _check_engine(record: EngineRecord, manifest: Manifest, request: TritonRequest) -> None:
    if record.model_sha256 != manifest.files.get(record.model_name):
        expected = f"one of the artifact's {record.model_name}"
        raise ArtifactError(f"engine {record.name}", "one of another model", expected, "build it again")
    if record.host_code is not None and not request.allow_engine_code:
        got = f"{record.name}, which carries {record.host_code}"
        expected = "an engine without machine code, which would run as the server"
        raise InputError(
            "engine", got, expected, "use `allow_engine_code=True` if you trust whoever built it"
        )
