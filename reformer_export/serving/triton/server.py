"""What Triton tells a model of the python backend, and what that tells Triton."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from reformer_export.errors import InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime, RuntimeOptions, load
from reformer_export.runtimes.options import OpenFor, options_from_fields
from reformer_export.serving.triton.config import RUNTIME_PARAMETER

ModelArguments = dict[str, str]
"""model_config (JSON), model_repository, model_version, model_instance_kind, model_instance_device_id and
others, all texts (python_backend's README, "initialize")."""

ARTIFACT_FOLDER: Final = "artifact"
"""Beside model.py."""


def read_parameter(arguments: ModelArguments, key: str, default: str | None = None) -> str:
    """The text of a parameter of config.pbtxt, or the default; InputError where there is neither."""
    parameters = json.loads(arguments["model_config"]).get("parameters", {})
    value = parameters.get(key, {}).get("string_value", default)
    if not isinstance(value, str):
        fix = "write the repository again with `reformer-export triton`"
        raise InputError(f"config.pbtxt, parameter {key}", "none", "one", fix)
    return value


def runtime_options(arguments: ModelArguments, open_for: OpenFor = "run") -> RuntimeOptions:
    """How to open the artifact: as config.pbtxt says, on the GPU that the server has chosen."""
    try:
        fields = json.loads(read_parameter(arguments, RUNTIME_PARAMETER))
    except ValueError as error:
        fix = "mend config.pbtxt, or write the repository again"
        raise InputError(
            f"config.pbtxt, parameter {RUNTIME_PARAMETER}", "no JSON", "an object", fix
        ) from error
    if not isinstance(fields, dict):
        raise InputError(f"config.pbtxt, parameter {RUNTIME_PARAMETER}", type(fields).__name__, "an object")
    options = options_from_fields(RuntimeOptions, None, fields)
    is_on_gpu = arguments["model_instance_kind"] == "GPU"
    if is_on_gpu and options.provider != "cpu":
        options = dataclasses.replace(options, device_id=int(arguments["model_instance_device_id"]))
    if not is_on_gpu and not options.is_engine and options.provider == "auto":
        options = dataclasses.replace(options, provider="cpu", tf32=False)
    return options if options.is_engine else dataclasses.replace(options, open_for=open_for)


def check_numpy() -> None:
    """RuntimeUnavailableError for a numpy that ends this server's python backend at the first request.

    Before 24.11 (server 2.52) it was built with pybind11 2.10, which reads numpy 2's types wrongly
    (python_backend's CMakeLists.txt). NVIDIA's images say their version in the environment.
    """
    server = os.environ.get("TRITON_SERVER_VERSION", "")
    numbers = [int(part) for part in server.split(".")[:2] if part.isdigit()]
    if len(numbers) == 2 and tuple(numbers) < (2, 52) and int(np.__version__.split(".")[0]) >= 2:
        got, fix = f"{np.__version__} with Triton {server}", "pip install 'numpy<2', or take a later server"
        raise RuntimeUnavailableError("numpy", got, "below 2, for which that server was built", fix)


def open_artifact(arguments: ModelArguments, open_for: OpenFor = "run") -> Runtime:
    """The artifact in the model's folder of the version, each file compared with its SHA-256."""
    check_numpy()
    folder = Path(arguments["model_repository"]) / arguments["model_version"] / ARTIFACT_FOLDER
    options = dataclasses.replace(runtime_options(arguments, open_for), check=True)
    return load(folder, options)


def error_response(backend: Any, error: ReformerExportError) -> Any:
    """What a client gets for a request that is refused."""
    codes = backend.TritonError
    code = codes.INVALID_ARG if isinstance(error, InputError) else codes.INTERNAL
    if isinstance(error, RuntimeUnavailableError):  # such as a full queue: ask again
        code = codes.UNAVAILABLE
    return backend.InferenceResponse(output_tensors=[], error=backend.TritonError(str(error), code))
