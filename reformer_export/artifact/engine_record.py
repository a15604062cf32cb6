"""What stands beside an engine: OUT/engines/NAME.json, the record that says what NAME.engine is.

An engine cannot be asked what it was built from, so the record says it: the model, the runtime and its
version, the GPUs, the shapes, the plugin library. The builder writes it, the runtimes compare it with the
machine before they load the engine.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.files import JsonFile, json_text, sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME, MODEL_NAME
from reformer_export.errors import InputError
from reformer_export.spec import DType

ENGINE_RECORD_VERSION: Final = 1
ENGINE_SUFFIX: Final = ".engine"
RECORD_SUFFIX: Final = ".json"

EngineRuntime = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_RUNTIMES: Final[tuple[EngineRuntime, ...]] = get_args(EngineRuntime)

_NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")

# What a record from a stranger may say; msgspec compares the fields with these when it is read.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, lt=2.0**63)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
EngineName = Annotated[str, msgspec.Meta(pattern=_NAME.pattern)]
FileName = Annotated[str, msgspec.Meta(pattern=r"\A(?!\.\.?\Z)[^/\\\0]+\Z")]
ComputeCapabilityText = Annotated[str, msgspec.Meta(pattern=r"\A[1-9][0-9]?\.[0-9]\Z")]
AtLeastOne = msgspec.Meta(min_length=1)
OptionalCount = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None

Shape = Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=64)]
"""(batch, sequence length in tokens) of the inputs: of an engine that decodes, new tokens; of a custom module
the sizes of its symbolic dimensions, in the order of its manifest."""


@dataclass(frozen=True)
class EngineProfile:
    """One optimisation profile: the engine takes shapes from `minimum` to `maximum` and was tuned for
    `optimum`."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        lengths = {len(shape) for shape in (self.minimum, self.optimum, self.maximum)}
        if len(lengths) > 1:
            got, expected = f"shapes of {sorted(lengths)} sizes", "as many in each"
            raise InputError("profile", got, expected, "give other `minimums`, `optimums`, `maximums`")
        for low, middle, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            if not 1 <= low <= middle <= high:
                raise InputError(
                    "profile",
                    self,
                    "1 <= min <= opt <= max in batch and in length",
                    "give other `minimums`, `optimums`, `maximums`",
                )

    def __str__(self) -> str:
        return " / ".join(map(format_shape, (self.minimum, self.optimum, self.maximum)))

    def takes(self, *shape: int) -> bool:
        """Whether a shape lies within the profile."""
        limits = zip(self.minimum, shape, self.maximum, strict=True)
        return all(low <= size <= high for low, size, high in limits)


@dataclass(frozen=True)
class PluginRecord:
    """The plugin library that the engine was built with; `embedded`: the engine carries it."""

    file_name: FileName
    sha256: Sha256
    abi_version: Count
    version: Text
    embedded: bool


@dataclass(frozen=True)
class EngineFlags:
    """How the engine was built: weights can be exchanged (`refit`), weights are left out and must be given
    at load (`stripped`), other runtime versions or other GPUs may load it, float32 products may be rounded
    to TF32."""

    refit: bool = False
    stripped: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    tf32: bool = False


@dataclass(frozen=True)
class EngineRecord:
    """What an engine is.

    `runtime_version` is the builder's, such as "1.7.1.116"; `compute_capabilities` are texts such as "8.9";
    `model_sha256` is that of the ONNX file and `engine_sha256` the engine file's (hex); `engine_bytes` is its
    size; `plugin_layers` counts the engine's plugin layers by operator name; `num_hashes` are the rounds that
    were built in, of a model whose runs choose them; `capacity` is the greatest number of tokens that a
    sequence's caches may have room for, of an engine of decode.onnx. Both are None, and not in the file, for
    all others.
    """

    name: EngineName
    runtime: EngineRuntime
    runtime_version: Text
    compute_capabilities: Annotated[tuple[ComputeCapabilityText, ...], AtLeastOne]
    profiles: Annotated[tuple[EngineProfile, ...], AtLeastOne]
    dtype: DType
    model_sha256: Sha256
    engine_sha256: Sha256
    engine_bytes: Count
    plugin: PluginRecord
    flags: EngineFlags
    plugin_layers: dict[Text, Count]
    build_seconds: Seconds
    tool_version: Text
    num_hashes: OptionalCount = None
    capacity: OptionalCount = None

    def __post_init__(self) -> None:
        lengths = {len(profile.minimum) for profile in self.profiles}
        if len(lengths) > 1 or (self.decodes and lengths != {2}):
            got, fix = f"shapes of {sorted(lengths)} sizes", "build the engine again"
            raise InputError("profiles", got, "as many in each, and two where it decodes", fix)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `read_engine_record` reads them back."""
        values = {"engine_record_version": ENGINE_RECORD_VERSION, **dataclasses.asdict(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def decodes(self) -> bool:
        """Whether the engine continues sequences (decode.onnx); others take them whole (model.onnx)."""
        return self.capacity is not None

    @property
    def model_name(self) -> str:
        """The ONNX file that it was built from."""
        return DECODE_NAME if self.decodes else MODEL_NAME

    @property
    def longest(self) -> int:
        """The longest sequence, in tokens: of an engine that decodes, all of it; of a custom module, the
        greatest size of any dimension but the first."""
        return self.capacity or max(max(profile.maximum[1:], default=1) for profile in self.profiles)

    @property
    def host_code(self) -> str | None:
        """The machine code for the host that the engine carries, in words; None when it carries none."""
        carried = {
            "the plugin library": self.plugin.embedded,
            "the lean runtime of a version-compatible engine": self.flags.version_compatible,
        }
        return " and ".join(name for name, is_there in carried.items() if is_there) or None

    def find_profile(self, *shape: int) -> int | None:
        """The index of the profile that takes the shape and was tuned closest to it, or None."""
        fitting = [i for i, profile in enumerate(self.profiles) if profile.takes(*shape)]
        return min(fitting, key=lambda i: _distance(self.profiles[i], shape), default=None)


def _distance(profile: EngineProfile, shape: Shape) -> tuple[float, int]:
    """Smaller is nearer; of profiles tuned alike, the one with the smaller greatest shape."""
    pairs = zip(reversed(shape), reversed(profile.optimum), strict=True)
    tuned = sum(abs(math.log(size / best)) for size, best in pairs)
    return tuned, math.prod(profile.maximum)


def format_shape(shape: Shape) -> str:
    """BxL, as the command line takes it."""
    return "x".join(map(str, shape))


def check_engine_name(name: str) -> str:
    """`name` itself; InputError unless it can be a file's name anywhere and stays in its folder."""
    if not _NAME.match(name) or name.endswith("."):
        raise InputError(
            "engine name",
            f"{name!r:.120}",
            "up to 100 letters, digits, '.', '_', '-', the first a letter or digit",
            "give another name",
        )
    return name


def engine_path(out: Path, name: str) -> Path:
    """OUT/engines/NAME.engine; InputError when `name` cannot be one."""
    return out / ENGINES_NAME / (check_engine_name(name) + ENGINE_SUFFIX)


def record_path(out: Path, name: str) -> Path:
    """OUT/engines/NAME.json; InputError when `name` cannot be one."""
    return out / ENGINES_NAME / (check_engine_name(name) + RECORD_SUFFIX)


def staged_record_path(out: Path, name: str) -> Path:
    """OUT/engines/.NAME.staged: the record of an engine that is being moved into place."""
    return out / ENGINES_NAME / f".{check_engine_name(name)}.staged"


def list_engines(out: Path) -> tuple[str, ...]:
    """The names of the engines of the artifact `out`, sorted."""
    names = (path.stem for path in (out / ENGINES_NAME).glob(f"*{ENGINE_SUFFIX}"))
    return tuple(sorted(name for name in names if _NAME.match(name)))


_FILE: Final = JsonFile("an engine's record", "build the engine again with `reformer-export engine`")


def record_text(record: EngineRecord) -> str:
    """What the record's file holds."""
    return json_text(record.to_dict()) + "\n"


def read_engine_record(out: Path, name: str) -> EngineRecord:
    """Read and check OUT/engines/NAME.json.

    A build that was killed may have left the new engine with its record still under its staged name: the
    engine file then tells which of the two records is its own.

    Raises:
        InputError: `name` cannot be an engine's.
        ArtifactError: the record is missing, broken, of another version, or contradicts itself. The engine
            file is not compared with it.
    """
    staged = staged_record_path(out, name)
    if staged.is_file():
        record = read_record_file(staged, name)
        engine = engine_path(out, name)
        if engine.is_file() and sha256_of_file(engine) == record.engine_sha256:
            return record
    return read_record_file(record_path(out, name), name)


def read_record_file(path: Path, name: str) -> EngineRecord:
    """The checked record of the engine `name` in the file `path`; the errors of `read_engine_record`."""
    values = _FILE.read_version(path, "engine_record_version", ENGINE_RECORD_VERSION)
    record = _FILE.convert(path, values, EngineRecord)
    meant = json.loads(record_text(record))
    if meant != values:  # a field too many, or one that was left out and has a default
        names = ", ".join(
            sorted(key for key in {*values, *meant} if values.get(key, ...) != meant.get(key, ...))
        )
        raise _FILE.refuse(path, f"unknown or missing fields ({names!r:.80})")
    if record.name != name:
        raise _FILE.refuse(path, f"the record of an engine named {record.name!r}, not {name!r:.120}")
    return record
