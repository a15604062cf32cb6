"""README.md of a repository: how to start the server, what its image needs, how to ask."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from reformer_export import __version__
from reformer_export.artifact.engine_record import format_shape
from reformer_export.artifact.manifest import Manifest
from reformer_export.runtimes.options import ONNXRUNTIME
from reformer_export.serving.triton.config import has_rows
from reformer_export.serving.triton.options import GENERATE_SUFFIX, TritonRequest
from reformer_export.serving.triton.plan import RepositoryPlan
from reformer_export.serving.triton.record import RECORD_NAME, VERSION

HOST_CODE_OPTION: Final = "--backend-config=tensorrt,version-compatible=true"
"""Lets Triton's tensorrt backend load code that an engine carries: it then calls setEngineHostCodeAllowed
(tensorrt_backend, README and src/loader.cc)."""

_TEXT: Final = """\
# {name}: {task} by Triton Inference Server

Written by reformer-export {version} for Triton's `{backend}` backend, from an artifact in {dtype}. Sizes of
its inputs: {sizes}.

## Start

    {command}

Models: {models}. `reformer-export inspect {place}` compares every file with what was written.

## What the server's image needs

{needs}

## Ask

{ask}

## What may be changed

`instance_group`, `dynamic_batching`, `max_batch_size` and other lines of a `config.pbtxt` that do not say
what the model is: `inspect` then says that the file was edited, and whether it still fits the artifact. For
anything else write the repository again. `{record}` says what was written, and from what.
"""

_BATCHES: Final = """\
Up to {rows} rows run together; a request waits up to {delay} microseconds for others
(`max_queue_delay_microseconds`).

"""

_PYTHON_BATCHES: Final = """\
Requests of unlike lengths are joined where the model itself pads them to one length: each answer is that of
`reformer_export.load("OUT").run(...)` on the request alone. `attention_mask` may be left out; pad on the
right. A model exported with --max-hashes takes the request parameter `num_hashes`.
"""

_CUSTOM_BATCHES: Final = """\
Requests are joined where their shapes are equal but for the rows: a module that mixes rows needs
`--max-batch-size 1`.
"""

_ROWS_ALONE: Final = """\
Triton shows {names} as [rows, 1]: it has no tensors of rows alone.

"""

_NO_BATCHES: Final = """\
Requests run one by one: not every input and output has its rows first, in one symbolic dimension.
"""

_ASK_BY_NAME: Final = """\
    import tritonclient.http
    client = tritonclient.http.InferenceServerClient("localhost:8000")
    inputs = []
    for name, datatype in {types}:
        inputs.append(tritonclient.http.InferInput(name, arrays[name].shape, datatype))
        inputs[-1].set_data_from_numpy(arrays[name])
    answer = client.infer("{name}", inputs).as_numpy("{output}")

"""

_ASK_WITH_IDS: Final = """\
    curl localhost:8000/v2/models/{name}/versions/{version}/infer -d \\
      '{{"inputs": [{{"name": "input_ids", "datatype": "INT64", "shape": [1, 3], "data": [5, 6, 7]}},
        {{"name": "attention_mask", "datatype": "INT64", "shape": [1, 3], "data": [1, 1, 1]}}]}}'

"""

_EQUAL_LENGTHS: Final = """\
Triton joins requests of equal length only; texts of many lengths are served better by `--backend python`.
`attention_mask` is needed: ones, and zeros for padding on the right.
"""

_GENERATE: Final = """
`{name}` writes: a stream of responses, a token each, over gRPC or as server-sent events:

    curl -N localhost:8000/v2/models/{name}/generate_stream -d '{{"text_input": "In the beginning"}}'

The prompt is `text_input` or `input_ids`; `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed`,
`eos_token_id`, `num_hashes`, `refresh` and `stop` (texts before which the text ends) are optional inputs.
Each response has `token_id`, `text_output` and `stop_reason`, which the last one fills. In each instance
up to {streams} generations step together, as many as {cache} bytes of caches have room for; {queue} more may
wait, and the next is refused. One whose client leaves stops.
"""


def readme_text(manifest: Manifest, request: TritonRequest, plan: RepositoryPlan, place: Path) -> str:
    """README.md of the repository that will be at `place`."""
    needs = {"python": _python_needs, "onnxruntime": _onnxruntime_needs, "tensorrt": _tensorrt_needs}
    return _TEXT.format(
        name=request.name,
        task=manifest.spec.task,
        version=__version__,
        backend=request.backend,
        dtype=manifest.precision,
        sizes=manifest.describe_sizes(),
        command=start_command(request, place),
        models=", ".join(f"`{name}`" for name in plan.configs),
        place=shlex.quote(place.name),
        needs="\n".join(f"- {line}" for line in needs[request.backend](request, plan)),
        ask=_ask(manifest, request, plan),
        record=RECORD_NAME,
    )


def start_command(request: TritonRequest, place: Path) -> str:
    """The line that starts the server."""
    folder = shlex.quote(request.mounted_at or str(place))
    options = [HOST_CODE_OPTION] if request.backend == "tensorrt" else []
    return " ".join(["tritonserver", f"--model-repository={folder}", *options])


def _python_needs(request: TritonRequest, plan: RepositoryPlan) -> list[str]:
    extra = {ONNXRUNTIME: "cpu", "tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}[request.chosen_runtime]
    if extra == "cpu" and request.provider == "cuda":
        extra = "gpu"
    either = (
        " (or [gpu], where instances run on a GPU)" if request.provider == "auto" and extra == "cpu" else ""
    )
    lines = [
        "Triton 23.11 or later with the python backend, on Linux.",
        f"`pip install 'reformer-export[{extra},text]=={__version__}'`{either} in the Python of that "
        "backend: the `python3` that is first on the server's PATH, or an environment that the parameter "
        "EXECUTION_ENV_PATH of `config.pbtxt` names. Neither torch nor transformers is needed.",
        "numpy below 2 before Triton 24.11, whose python backend was built for it: with a later numpy it "
        "ends at the first request.",
        "Nothing of the repository is executed but `model.py`, which imports that package.",
    ]
    if plan.engines:
        versions = ", ".join(f"{each.name}: {each.runtime} {each.runtime_version}" for each in plan.engines)
        lines.append(f"The version of TensorRT that the engine was built with ({versions}), and its GPU.")
    return lines


def _onnxruntime_needs(request: TritonRequest, plan: RepositoryPlan) -> list[str]:
    lines = ["Triton 24.07 or later with the onnxruntime backend (its ONNX Runtime: 1.18 or later)."]
    if plan.library is not None and plan.library_path is not None:
        path = plan.configs[request.name]["model_operations"]["op_library_filename"][0]
        lines += [
            f"The operator library {plan.library} at `{path}`: `op_library_filename` of `config.pbtxt` is "
            "an absolute path of the server's machine. Where the repository is mounted elsewhere, write it "
            "again with `--mounted-at`, or change that line. It needs the glibc that it was built with, or "
            "a later one; LD_PRELOAD does not register it.",
        ]
    else:
        lines.append("No operator library: the function bodies in model.onnx run, with the same results.")
    if request.provider != "cpu":
        rounded = "" if request.tf32 else "not "
        lines.append(f"On a GPU, products of float32 are {rounded}rounded to TF32 (use_tf32).")
    return lines


def _tensorrt_needs(request: TritonRequest, plan: RepositoryPlan) -> list[str]:
    record = plan.engines[0]
    later = " or later" if record.flags.version_compatible else ""
    hardware = (
        "any GPU from Ampere on" if record.flags.hardware_compatible else "a GPU of compute capability "
    )
    if not record.flags.hardware_compatible:
        hardware += " or ".join(record.compute_capabilities)
    shapes = "; ".join(
        f"{format_shape(each.minimum)} to {format_shape(each.maximum)}" for each in record.profiles
    )
    return [
        f"Triton with the tensorrt backend and TensorRT {record.runtime_version}{later}; {hardware}.",
        f"`{HOST_CODE_OPTION}`: the engine carries {record.host_code}, which the server loads and runs. "
        "Serve only an engine whose builder you trust. No plugin library is loaded beside it.",
        f"Shapes, rows x tokens: {shapes}.",
    ]


def _ask(manifest: Manifest, request: TritonRequest, plan: RepositoryPlan) -> str:
    config = plan.configs[request.name]
    types = [(each["name"], str(each["data_type"]).removeprefix("TYPE_")) for each in config["input"]]
    kinds = dict(types)
    shown = [f"`{each.name}` {kinds[each.name]} {each.describe_shape()}" for each in manifest.inputs]
    gives = ", ".join(f"`{each.name}` {each.describe_shape()}" for each in manifest.outputs)
    text = f"`{request.name}` takes {' and '.join(shown)} and gives {gives}:\n\n"
    if manifest.is_custom or manifest.spec.takes_vectors:
        text += _ASK_BY_NAME.format(types=types, name=request.name, output=manifest.outputs[0].name)
    else:
        text += _ASK_WITH_IDS.format(name=request.name, version=VERSION)
    if not has_rows(manifest):
        return text + _NO_BATCHES.rstrip()
    alone = [f"`{each.name}`" for each in (*manifest.inputs, *manifest.outputs) if len(each.shape) == 1]
    text += _ROWS_ALONE.format(names=" and ".join(alone)) if alone else ""
    text += _BATCHES.format(rows=config["max_batch_size"], delay=request.queue_delay)
    if manifest.is_custom:
        text += _CUSTOM_BATCHES
    else:
        text += _PYTHON_BATCHES if request.backend == "python" else _EQUAL_LENGTHS
    name = request.name + GENERATE_SUFFIX
    if name in plan.configs:
        text += _GENERATE.format(
            name=name, streams=request.streams, cache=request.max_cache, queue=request.max_queue
        )
    return text.rstrip()
