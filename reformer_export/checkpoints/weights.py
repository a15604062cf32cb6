"""Read a checkpoint's tensors: safetensors, whole or in shards; pickles only when they are asked for.

Names, shapes and types come from the files' headers first, so that a checkpoint that does not fit is refused
before its tensors are read.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open

from reformer_export.checkpoints.source import MAX_INDEX_BYTES, read_json
from reformer_export.errors import CheckpointError

SAFETENSORS_NAME: Final = "model.safetensors"
PICKLE_NAME: Final = "pytorch_model.bin"
INDEX_SUFFIX: Final = ".index.json"

STORED_DTYPES: Final = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' spelling -> torch's, for the types that weights may have."""

MAPPED_ELEMENTS: Final = 2**24
"""Of the tensors that are read while a file is open once."""

_LFS_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of one tensor: its shape (elements), its type as torch spells it, the file."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


class WeightFiles(Protocol):
    """Tensors on disk: `files` are all files that were read, `headers` maps each stored name."""

    files: tuple[Path, ...]
    headers: dict[str, TensorHeader]

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors of these stored names: float32, contiguous, of their own memory."""


def open_weights(folder: Path, allow_pickle: bool) -> WeightFiles:
    """The weight files of `folder`, in the order of preference of `transformers`."""
    if _has(folder, SAFETENSORS_NAME):
        return SafetensorsFiles(*_list_files(folder, SAFETENSORS_NAME))
    if not _has(folder, PICKLE_NAME):
        raise CheckpointError(
            f"checkpoint {folder}",
            "no weights",
            f"{SAFETENSORS_NAME} or {SAFETENSORS_NAME}{INDEX_SUFFIX}",
            "give the folder that `save_pretrained` wrote",
        )
    if not allow_pickle:
        raise CheckpointError(
            f"checkpoint {folder}",
            f"only {PICKLE_NAME}, a pickle",
            SAFETENSORS_NAME,
            "convert it with `save_pretrained`, or use `allow_pickle=True` if you trust its author",
        )
    return PickleFiles(*_list_files(folder, PICKLE_NAME))


STATE_DICT_KEYS: Final = ("model", "model_state_dict")
"""Where training scripts keep a state dict beside other things."""


def open_weights_file(file: Path) -> WeightFiles:
    """The tensors of one file that a user names: safetensors, or what `torch.save` wrote, a state dict or a
    dict that has one under a key of STATE_DICT_KEYS. Of a pickle only tensors and plain values are read."""
    if zipfile.is_zipfile(file) or file.suffix != ".safetensors":
        return PickleFiles((file,), None, {}, STATE_DICT_KEYS)
    return SafetensorsFiles((file,), None, {})


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / (name + INDEX_SUFFIX)).is_file()


def _list_files(folder: Path, name: str) -> tuple[tuple[Path, ...], Path | None, dict[str, Path]]:
    """The weight files, the index if there is one, and the file that the index gives for each tensor."""
    if (folder / name).is_file():
        return (folder / name,), None, {}
    index = folder / (name + INDEX_SUFFIX)
    weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            index, "no weight_map", "one from tensor names to files", "save the checkpoint again"
        )
    promised = {tensor: _shard_path(index, shard) for tensor, shard in weight_map.items()}
    return tuple(sorted(set(promised.values()))), index, promised


def _shard_path(index: Path, shard: object) -> Path:
    # Only a bare name stays in the folder. Links are followed: the hub's own cache is made of them.
    if not isinstance(shard, str) or shard in ("", ".", "..") or any(char in shard for char in "/\\\0"):
        raise CheckpointError(
            index,
            f"the file name {shard!r}",
            "the name of a file beside the index",
            "the index was tampered with, download the checkpoint again",
        )
    path = index.parent / shard
    if not path.is_file():
        raise CheckpointError(
            index,
            f"the file name {shard!r}, which is missing",
            "all shards beside the index",
            "download the rest of the checkpoint",
        )
    return path


def _check_promises(index: Path, promised: dict[str, Path], headers: dict[str, TensorHeader]) -> None:
    for name, path in promised.items():
        if name not in headers or headers[name].file != path:
            raise CheckpointError(
                index,
                f"the tensor {name!r} in {path.name}",
                "that file to have it",
                "the shards are of different checkpoints, download them again",
            )


def _add_header(headers: dict[str, TensorHeader], name: str, header: TensorHeader) -> None:
    if name in headers:
        raise CheckpointError(
            header.file,
            f"the tensor {name!r}, which {headers[name].file.name} has too",
            "it once",
            "the shards are of different checkpoints, download them again",
        )
    headers[name] = header


def float32_copy(name: str, tensor: torch.Tensor, file: Path) -> torch.Tensor:
    """A contiguous float32 copy of any shape; CheckpointError when an element is infinite or not a number."""
    copy = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    bad = copy.numel() - int(torch.isfinite(copy).sum())
    if bad:
        raise CheckpointError(
            file,
            f"{bad} of {copy.numel()} values of the tensor {name} infinite or not a number",
            "finite float32 values",
            "the checkpoint is damaged or its training diverged",
        )
    return copy


class SafetensorsFiles:
    """Tensors of one safetensors file or of several."""

    def __init__(self, files: tuple[Path, ...], index: Path | None, promised: dict[str, Path]) -> None:
        self.files = files if index is None else (index, *files)
        self.headers: dict[str, TensorHeader] = {}
        for file in files:
            with _open_safetensors(file) as stream:
                for name in stream.keys():  # noqa: SIM118 (no mapping: it has keys() and no __iter__)
                    part = stream.get_slice(name)
                    dtype = part.get_dtype()
                    header = TensorHeader(tuple(part.get_shape()), STORED_DTYPES.get(dtype, dtype), file)
                    _add_header(self.headers, name, header)
        if index is not None:
            _check_promises(index, promised, self.headers)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors of these stored names: float32, contiguous, of their own memory."""
        tensors = {}
        for file, some in self._portions(names):
            with _open_safetensors(file) as stream:
                for name in some:
                    tensors[name] = float32_copy(name, stream.get_tensor(name), file)
        return tensors

    def _portions(self, names: Iterable[str]) -> Iterator[tuple[Path, list[str]]]:
        """`names` by their files, as many at once as `MAPPED_ELEMENTS` allow: an open file is mapped, and
        what was read of it counts as this process's memory, beside the copies."""
        for file, of_file in itertools.groupby(sorted(names, key=self._file_of), self._file_of):
            portion: list[str] = []
            elements = 0
            for name in of_file:
                size = math.prod(self.headers[name].shape)
                if portion and elements + size > MAPPED_ELEMENTS:
                    yield file, portion
                    portion, elements = [], 0
                portion.append(name)
                elements += size
            yield file, portion

    def _file_of(self, name: str) -> Path:
        return self.headers[name].file


@contextmanager
def _open_safetensors(file: Path) -> Iterator[Any]:
    _refuse_lfs_pointer(file)
    try:
        with safe_open(file, framework="pt", device="cpu") as stream:
            yield stream
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            file,
            f"{file.stat().st_size} bytes that are no whole safetensors file "
            f"({' '.join(str(error).split())})",
            "one",
            "download it again",
        ) from error


def _refuse_lfs_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(file, "a Git LFS pointer", "the weights", "run `git lfs pull`")


class PickleFiles:
    """Tensors of one `torch.save` file or of several, unpickled as tensors only."""

    def __init__(
        self,
        files: tuple[Path, ...],
        index: Path | None,
        promised: dict[str, Path],
        keys: tuple[str, ...] = (),
    ) -> None:
        """`keys`: those under which a file may have its state dict."""
        self.files = files if index is None else (index, *files)
        self.headers: dict[str, TensorHeader] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        for file in files:
            for name, tensor in _load_pickle(file, keys).items():
                dtype = str(tensor.dtype).removeprefix("torch.")
                _add_header(self.headers, name, TensorHeader(tuple(tensor.shape), dtype, file))
                self._tensors[name] = tensor
        if index is not None:
            _check_promises(index, promised, self.headers)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors of these stored names: float32, contiguous, of their own memory."""
        return {name: float32_copy(name, self._tensors[name], self.headers[name].file) for name in names}


def _load_pickle(file: Path, keys: tuple[str, ...]) -> dict[str, torch.Tensor]:
    _refuse_lfs_pointer(file)
    try:
        # Files written before torch 1.6 are no zip archives and cannot be mapped into memory.
        values = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a broken pickle can raise nearly anything
        raise CheckpointError(
            file,
            f"a pickle that does not load as tensors only ({type(error).__name__})",
            "a state dict",
            "convert it to safetensors where you trust it, or download it again",
        ) from error
    inner = [values[key] for key in keys if isinstance(values, dict) and isinstance(values.get(key), dict)]
    values = inner[0] if inner else values
    if not isinstance(values, dict) or not all(_is_plain(name, value) for name, value in values.items()):
        raise CheckpointError(
            file,
            "a pickle that is no state dict",
            "a dict from names to dense tensors",
            "save `model.state_dict()`",
        )
    return values


def _is_plain(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
