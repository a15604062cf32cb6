"""A checkpoint -> the files of an artifact, in a folder that the caller moves into place."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from reformer_export import __version__
from reformer_export.artifact.decoding import DECODE_NAME, describe_decoding
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import EXTERNAL_DATA_NAME, MODEL_NAME, Manifest, write_manifest
from reformer_export.checkpoints import Checkpoint, tokenizer_files
from reformer_export.contract import DEFAULT_OPSET, DOMAIN, VERSION
from reformer_export.errors import ExportError, InputError
from reformer_export.export.graph import trace_decoder, trace_model
from reformer_export.export.model_file import save_model, weights_nbytes
from reformer_export.export.num_hashes import add_num_hashes_input, runtime_num_hashes_of
from reformer_export.export.tokenizer import prepare_tokenizer, write_tokenizer
from reformer_export.libraries.operators import find_native_library
from reformer_export.low_precision import LowPrecision
from reformer_export.modeling import CanonicalModel, build_decoder, build_model
from reformer_export.spec import DType, TokenizerChoice

EXTERNAL_DATA_THRESHOLD: Final = 2**27
"""Bytes of weights above which they go into a file of their own, which ONNX Runtime maps where it would read
and copy what is inside a protobuf; that may have 2 GiB."""

SHARED_ABOVE: Final = 1024
"""Bytes; smaller tensors stand in each graph."""

_RECORDED_LIBRARIES: Final = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tokenizers",
    "numpy",
)


@dataclass(frozen=True)
class ExportOptions:
    """How to write the graph. `external_data_threshold` is in bytes of weights; `runtime_num_hashes` lets
    every run choose how many of the model's hashing rounds it uses; `tokenizer` says how text becomes ids;
    `decode` adds decode.onnx, on the same weights, which are external data then; `low_precision` says which
    dense layers have weights of few bits; `needs_text` refuses a model for which no text becomes ids."""

    dtype: DType = "float32"
    opset: int = DEFAULT_OPSET
    external_data_threshold: int = EXTERNAL_DATA_THRESHOLD
    runtime_num_hashes: bool = False
    tokenizer: TokenizerChoice = "auto"
    decode: bool = False
    low_precision: LowPrecision | None = None
    needs_text: bool = False


Compare = Callable[[Manifest], "dict[str, Any]"]
"""Looks at an artifact whose manifest.json is still to be written, and gives its `parity`."""


def write_artifact(
    checkpoint: Checkpoint, folder: Path, options: ExportOptions, compare: Compare | None = None
) -> Manifest:
    """Export `checkpoint` into `folder`: model.onnx, config and tokenizer files, and manifest.json at last.

    `options.decode` takes what `check_decodable` lets pass. `compare` says what the manifest records of the
    comparison with eager, and may raise to refuse it.

    Raises:
        ExportError: the graph does not keep the contract.
        InputError: `options.runtime_num_hashes` for a model that does not hash, a tokenizer that it does not
            have the ids for, or `options.needs_text` and none.
        MissingDependencyError: a package that reads the tokenizer's files is not installed.
        OSError: the disk refuses a write.
    """
    runtime_num_hashes = runtime_num_hashes_of(checkpoint.spec) if options.runtime_num_hashes else None
    is_file, vocab_size = checkpoint.file is not None, checkpoint.spec.vocab_size
    text, tokenizer = prepare_tokenizer(checkpoint.folder, vocab_size, options.tokenizer, is_file)
    if options.needs_text and text.kind == "none":
        got, expected = f"a text for a model of token ids only ({text.detail})", "a tokenizer that reads it"
        raise InputError("data", got, expected, 'give it one, use `tokenizer="bytes"`, or leave `data` out')
    model = build_model(checkpoint.spec, checkpoint.weights, options.dtype, options.low_precision)
    graph = trace_model(model, options.dtype, options.opset)
    if runtime_num_hashes is not None:
        add_num_hashes_input(graph, runtime_num_hashes)
    is_large = weights_nbytes(graph) > options.external_data_threshold
    save_model(graph, folder / MODEL_NAME, EXTERNAL_DATA_NAME if is_large or options.decode else None)
    if options.decode:
        decoder = trace_decoder(build_decoder(model), options.dtype, options.opset)
        if runtime_num_hashes is not None:
            add_num_hashes_input(decoder, runtime_num_hashes)
        _share_weights(decoder, folder / MODEL_NAME)
        save_model(decoder, folder / DECODE_NAME)
    for path in tokenizer_files(checkpoint.folder) if checkpoint.file is None else ():
        shutil.copyfile(path, folder / path.name)
    if tokenizer is not None:
        text = write_tokenizer(tokenizer, checkpoint.folder, folder, text)
    manifest = Manifest(
        spec=checkpoint.spec,
        dtype=options.dtype,
        opset=options.opset,
        operators=dict.fromkeys(sorted(_operators_of(graph)), VERSION),
        source=checkpoint.source,
        rotations_sha256=_rotations_sha256(model),
        versions=library_versions(),
        files={path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
        runtime_num_hashes=runtime_num_hashes,
        tokenizer=text,
        decode=describe_decoding(checkpoint.spec, options.dtype) if options.decode else None,
        low_precision=options.low_precision,
    )
    if compare is not None:
        manifest = dataclasses.replace(manifest, parity=compare(manifest))
    write_manifest(folder, manifest)
    return manifest


def _share_weights(model: ir.Model, saved: Path) -> None:
    """Let the initialisers of `model` refer to the external data of the graph in the file `saved`, in place.

    They are found by what is in them, since the exporter names transposed weights as it likes.

    Raises:
        ExportError: a large initialiser is not there.
    """
    stored: dict[str, ir.ExternalTensor] = {}
    for value in ir.load(saved).graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            stored[_digest(tensor)] = tensor
            tensor.release()  # else the whole file stays mapped, and counts as this process's memory
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SHARED_ABOVE:
            continue
        twin = stored.get(_digest(tensor))
        if twin is None:
            raise ExportError(
                f"weight {value.name}",
                "none of the same content in model.onnx",
                "every weight in both graphs",
                "please report the versions that `reformer-export doctor` prints",
            )
        value.const_value = ir.ExternalTensor(
            *(twin.location, twin.offset, twin.length, twin.dtype),
            shape=twin.shape,
            name=value.name or "",
            base_dir=twin.base_dir,
        )


def _digest(tensor: Any) -> str:
    """Of a tensor's type, shape and content."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.tobytes())
    return digest.hexdigest()


def _operators_of(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph if node.domain == DOMAIN}


def _rotations_sha256(model: CanonicalModel) -> dict[str, str]:
    digests = {}
    for index in model.spec.lsh_layers:
        rotations = model.get_buffer(f"encoder.layers.{index}.attention.self_attention.rotations")
        digests[str(index)] = hashlib.sha256(rotations.contiguous().numpy().tobytes()).hexdigest()
    return digests


def library_versions() -> dict[str, str]:
    """Of the tools and libraries that an artifact is made with."""
    versions = {"reformer-export": __version__, "python": platform.python_version()}
    for name in _RECORDED_LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    library = find_native_library("auto")
    return versions if library is None else {**versions, "native library": str(library)}
