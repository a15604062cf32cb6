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
from typing import Any, Final, Literal, get_args

from reformer_export.artifact.files import json_text, sha256_of_file
from reformer_export.artifact.manifest import ENGINES_NAME
from reformer_export.errors import ArtifactError, InputError
from reformer_export.spec import DTYPES, DType

ENGINE_RECORD_VERSION: Final = 1
ENGINE_SUFFIX: Final = ".engine"
RECORD_SUFFIX: Final = ".json"
MAX_RECORD_BYTES: Final = 2**20

EngineRuntime = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_RUNTIMES: Final[tuple[EngineRuntime, ...]] = get_args(EngineRuntime)

Shape = tuple[int, int]
"""(batch, sequence length in tokens) of both inputs."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMPUTE_CAPABILITY: Final = re.compile(r"[1-9][0-9]?\.[0-9]")


@dataclass(frozen=True)
class EngineProfile:
    """One optimisation profile: the engine takes shapes from `minimum` to `maximum` and was tuned for
    `optimum`; each is (batch, tokens)."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            if not 1 <= low <= middle <= high:
                raise InputError(
                    f"profile: got {self}, expected 1 <= min <= opt <= max in batch and in length; "
                    "give other --min, --opt, --max"
                )

    def __str__(self) -> str:
        return " / ".join(map(format_shape, (self.minimum, self.optimum, self.maximum)))

    def takes(self, batch: int, length: int) -> bool:
        """Whether a batch of `batch` sequences of `length` tokens lies within the profile."""
        (batch_from, from_), (batch_to, to) = self.minimum, self.maximum
        return batch_from <= batch <= batch_to and from_ <= length <= to


@dataclass(frozen=True)
class PluginRecord:
    """The plugin library that the engine was built with; `embedded`: the engine carries it."""

    file_name: str
    sha256: str
    abi_version: int
    version: str
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
    `model_sha256` is model.onnx's and `engine_sha256` the engine file's (hex); `engine_bytes` is its size;
    `plugin_layers` counts the engine's plugin layers by operator name.
    """

    name: str
    runtime: EngineRuntime
    runtime_version: str
    compute_capabilities: tuple[str, ...]
    profiles: tuple[EngineProfile, ...]
    dtype: DType
    model_sha256: str
    engine_sha256: str
    engine_bytes: int
    plugin: PluginRecord
    flags: EngineFlags
    plugin_layers: dict[str, int]
    build_seconds: float
    tool_version: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `read_engine_record` reads them back."""
        return {"engine_record_version": ENGINE_RECORD_VERSION, **dataclasses.asdict(self)}

    def find_profile(self, batch: int, length: int) -> int | None:
        """The index of the profile that takes the shape and was tuned closest to its length, or None."""
        fitting = [i for i, profile in enumerate(self.profiles) if profile.takes(batch, length)]
        return min(fitting, key=lambda i: _distance(self.profiles[i], batch, length), default=None)


def _distance(profile: EngineProfile, batch: int, length: int) -> tuple[float, int]:
    """Smaller is nearer; of profiles tuned alike, the one with the smaller greatest shape."""
    tuned = abs(math.log(length / profile.optimum[1])) + abs(math.log(batch / profile.optimum[0]))
    return tuned, math.prod(profile.maximum)


def format_shape(shape: Shape) -> str:
    """BxL, as the command line takes it."""
    return f"{shape[0]}x{shape[1]}"


def check_engine_name(name: str) -> str:
    """`name` itself; InputError unless it can be a file's name anywhere and stays in its folder."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InputError(
            f"engine name: got {name!r:.120}, expected up to 100 letters, digits, '.', '_', '-', the first a "
            "letter or digit; give another name"
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
    return tuple(sorted(name for name in names if _NAME.fullmatch(name)))


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
        record = _read_record(staged, name)
        engine = engine_path(out, name)
        if engine.is_file() and sha256_of_file(engine) == record.engine_sha256:
            return record
    return _read_record(record_path(out, name), name)


def _read_record(path: Path, name: str) -> EngineRecord:
    values = _read_json(path)
    version = values.get("engine_record_version") if isinstance(values, dict) else None
    if version is None:
        raise _broken(path, "JSON that is no engine's record", "an object with an engine_record_version")
    if version != ENGINE_RECORD_VERSION or isinstance(version, bool):
        raise ArtifactError(
            f"{path}: got engine record version {version!r:.40}, expected {ENGINE_RECORD_VERSION}; build the "
            "engine again, or install the reformer-export that built it"
        )
    record = _record_from_dict(path, values)
    if record.name != name:
        raise _broken(path, f"the record of an engine named {record.name!r:.120}", f"that of {name!r}")
    return record


def _broken(path: Path, got: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: got {got}, expected {expected}; build the engine again with `reformer-export engine`"
    )


def _read_json(path: Path) -> Any:
    try:
        if not path.is_file():
            raise _broken(path, "no such file", "the record beside the engine")
        size = path.stat().st_size
        if size > MAX_RECORD_BYTES:
            raise _broken(path, f"{size} bytes", f"at most {MAX_RECORD_BYTES}")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"{path}: got '{error.strerror or error}', expected a readable file; check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise _broken(path, f"text that is not JSON ({reason})", "an engine's record") from error


def _record_from_dict(path: Path, values: dict[str, Any]) -> EngineRecord:
    known = {"engine_record_version", *(field.name for field in dataclasses.fields(EngineRecord))}
    try:
        if set(values) - known:
            raise ValueError(f"unknown field {min(set(values) - known)!r:.60}")
        return EngineRecord(
            name=_text("name", values["name"], _NAME),
            runtime=_one_of("runtime", values["runtime"], ENGINE_RUNTIMES),
            runtime_version=_text("runtime_version", values["runtime_version"]),
            compute_capabilities=tuple(
                _text("compute_capabilities", value, _COMPUTE_CAPABILITY)
                for value in _filled_list("compute_capabilities", values["compute_capabilities"])
            ),
            profiles=tuple(map(_profile, _filled_list("profiles", values["profiles"]))),
            dtype=_one_of("dtype", values["dtype"], DTYPES),
            model_sha256=_text("model_sha256", values["model_sha256"], _SHA256),
            engine_sha256=_text("engine_sha256", values["engine_sha256"], _SHA256),
            engine_bytes=_count("engine_bytes", values["engine_bytes"]),
            plugin=_plugin(values["plugin"]),
            flags=_flags(values["flags"]),
            plugin_layers={
                _text("plugin_layers", key): _count(f"plugin_layers.{key}", value)
                for key, value in _fields("plugin_layers", values["plugin_layers"]).items()
            },
            build_seconds=_number("build_seconds", values["build_seconds"]),
            tool_version=_text("tool_version", values["tool_version"]),
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise _broken(
            path, f"a missing or wrong field ({reason})", f"the fields of version {ENGINE_RECORD_VERSION}"
        ) from error


def _profile(value: Any) -> EngineProfile:
    fields = _fields("profiles", value, EngineProfile)
    shapes = {name: _shape(f"profiles.{name}", shape) for name, shape in fields.items()}
    return EngineProfile(**shapes)


def _shape(name: str, value: Any) -> Shape:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} is not [batch, length]")
    return _count(name, value[0]), _count(name, value[1])


def _plugin(value: Any) -> PluginRecord:
    fields = _fields("plugin", value, PluginRecord)
    file_name = _text("plugin.file_name", fields["file_name"])
    if Path(file_name).name != file_name:
        raise ValueError("plugin.file_name is not the name of a file")
    return PluginRecord(
        file_name=file_name,
        sha256=_text("plugin.sha256", fields["sha256"], _SHA256),
        abi_version=_count("plugin.abi_version", fields["abi_version"]),
        version=_text("plugin.version", fields["version"]),
        embedded=_flag("plugin.embedded", fields["embedded"]),
    )


def _flags(value: Any) -> EngineFlags:
    fields = _fields("flags", value, EngineFlags)
    return EngineFlags(**{name: _flag(f"flags.{name}", flag) for name, flag in fields.items()})


def _fields(name: str, value: Any, of: type[Any] | None = None) -> dict[str, Any]:
    """A JSON object; with `of`, one that has exactly the fields of that dataclass."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {type(value).__name__}, not an object")
    if of is not None:
        expected = {field.name for field in dataclasses.fields(of)}
        if set(value) != expected:
            raise ValueError(f"{name} has the fields {sorted(value)!r:.200}, not {sorted(expected)}")
    return value


def _filled_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise TypeError(f"{name} is not a list of one or more")
    return value


def _text(name: str, value: Any, form: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} is not a text")
    if form is not None and not form.fullmatch(value):
        raise ValueError(f"{name} has the wrong form: {value!r:.80}")
    return value


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{name} is {value!r:.40}, none of {', '.join(choices)}")
    return value


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(f"{name} is not a whole number of up to 63 bits")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is neither true nor false")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(f"{name} is not a number of 0 or more")
    return float(value)
