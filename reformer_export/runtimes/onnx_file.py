"""Read an .onnx file with the package `onnx`, with every failure as one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.files import reading
from reformer_export.errors import ArtifactError, MissingDependencyError
from reformer_export.runtimes.onnx_structure import check_onnx_structure

MAX_PROTOBUF_BYTES: Final = 2**31 - 1
"""Protobuf's own limit; larger models keep their weights in external data."""
EXTERNAL_ABOVE: Final = 1024
"""Bytes of a weight that `write_onnx` leaves in the graph."""


def import_onnx() -> Any:
    """The onnx module; MissingDependencyError says how it is had."""
    try:
        import onnx
    except ImportError as error:
        fix = "pip install onnx, or 'reformer-export[export]', which has torch too"
        raise MissingDependencyError("onnx", f"'{error}'", "the package", fix) from error
    return onnx


def read_weight(tensor: Any, folder: Path) -> bytes:
    """The numbers of an `onnx.TensorProto`, as raw_data has them; its external data lie in `folder`.

    `onnx` reads no file of several names: in the hub's cache every file is a symbolic link, in a Triton
    repository a hard one. `check_onnx_structure` has looked where the names lead to.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data
    from onnx.numpy_helper import to_array

    if not uses_external_data(tensor):
        return bytes(tensor.raw_data) if tensor.HasField("raw_data") else bytes(to_array(tensor).tobytes())
    info = ExternalDataInfo(tensor)
    path, begin = folder / info.location, info.offset or 0
    size = path.stat().st_size if path.is_file() else 0
    length = size - begin if info.length is None else info.length
    if not 0 <= begin <= begin + length <= size:
        raise ValueError(f"{tensor.name}: {length} bytes at {begin} of {size} in {info.location}")
    with path.open("rb") as file:
        file.seek(begin)
        data: bytes = file.read(length)
    return data


def _read_weights(model: Any, folder: Path) -> None:
    """Put the weights' external data, which lies in `folder`, into `model`."""
    from onnx.external_data_helper import uses_external_data

    for tensor in filter(uses_external_data, model.graph.initializer):
        tensor.raw_data = read_weight(tensor, folder)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def write_onnx(model: Any, path: Path, data_name: str) -> None:
    """Write an `onnx.ModelProto`, its weights in memory, to the file `path`, and large ones to the file
    `data_name` beside it, as a protobuf may not exceed 2 GiB. They are in the file from then on.

    Those of the widest numbers come first: so each lies at a multiple of its numbers' size, without which
    kernels refuse them where the file is mapped.
    """
    from onnx import helper

    def width(tensor: Any) -> int:
        return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)

    model.graph.initializer.sort(key=width, reverse=True)
    external = {"location": data_name, "size_threshold": EXTERNAL_ABOVE}
    import_onnx().save(model, str(path), save_as_external_data=True, **external)


def read_onnx(path: Path, *, external_data: bool) -> Any:
    """The `onnx.ModelProto` in the file `path`, with or without its external data.

    `onnx` refuses external data that lies outside the file's folder.
    """
    onnx = import_onnx()
    with reading(path):
        if not path.is_file():
            raise ArtifactError(path, "no such file", "an .onnx file", "check the path")
        size = path.stat().st_size
    if size > MAX_PROTOBUF_BYTES:
        expected = f"at most {MAX_PROTOBUF_BYTES}, protobuf's limit"
        raise ArtifactError(path, f"{size} bytes", expected, "store the weights as external data")
    check_onnx_structure(path)
    fix = "export the checkpoint again"
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        if external_data:
            _read_weights(model, path.parent)
            onnx.load_external_data_for_model(model, str(path.parent))  # of what is no weight
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError and OSError share no base
        raise ArtifactError(path, f"'{error}'", "a readable ONNX model", fix) from error
    if not model.HasField("graph"):
        raise ArtifactError(path, "no graph", "an ONNX model", fix)
    return model
