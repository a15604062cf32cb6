"""What a shard of a bulk run was told to do and has done: a JSON file beside its parts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from reformer_export.artifact.files import JsonFile, json_text, write_atomically
from reformer_export.batch.batching import Totals
from reformer_export.batch.parts import InputFile, Part
from reformer_export.batch.resume import Identity
from reformer_export.batch.sequences import Count
from reformer_export.errors import InputError, OutputError, one_line_repr

ANOTHER_FOLDER: Final = "give the same, or write into another folder"
SHARD_FILE: Final = JsonFile("a shard's manifest", ANOTHER_FOLDER, max_bytes=2**28, error=InputError)
MAX_SHARDS: Final = 99_999

_SHARD: Final = re.compile(r"(\d{1,5})/(\d{1,5})")
_NAME: Final = re.compile(r"shard-(\d{5})-of-(\d{5})\.json")


@dataclass(frozen=True)
class Shard:
    """The `index`-th, from 0, of `count` shares of the parts."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """I/N, with I from 0 to N-1; else InputError."""
        match = _SHARD.fullmatch(text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or shard.index >= shard.count:
            fix = "give e.g. 0/3, 1/3 and 2/3 to three machines"
            raise InputError("shard", one_line_repr(text), "I/N, with I from 0 to N-1", fix)
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def manifest_name(self) -> str:
        return f"shard-{self.index:05d}-of-{self.count:05d}.json"

    def select(self, parts: Sequence[Part]) -> list[Part]:
        """This shard's parts: every `count`-th."""
        return list(parts[self.index :: self.count])


@dataclass(frozen=True)
class InputRecord:
    """An input: its name, format, bytes, rows, and SHA-256 as `InputFile` has it."""

    path: str
    format: str
    size: Count
    sha256: str
    rows: Count


@dataclass(frozen=True)
class PartRecord:
    """A finished part: the rows `first` to before `end` of the input number `input`, what was done for them,
    and the file's bytes and their SHA-256."""

    name: str
    input: Count
    first: Count
    end: Count
    totals: Totals
    size: Count
    sha256: str

    def is_of(self, part: Part) -> bool:
        """Whether it is that part."""
        rows = part.rows
        return (self.name, self.input, self.first, self.end) == (part.name, part.input, rows.first, rows.end)


@dataclass(frozen=True)
class ShardManifest:
    """What a shard is of, by `options` (the artifact's SHA-256 among them) and `inputs`; its parts so far."""

    shard: str
    options: Identity
    inputs: tuple[InputRecord, ...]
    parts: tuple[PartRecord, ...] = ()
    finished: bool = False
    shard_manifest_version: Literal[1] = 1

    @property
    def totals(self) -> Totals:
        """What was done for all parts."""
        return sum((part.totals for part in self.parts), Totals())

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        refuse_link(path)
        write_atomically(path, json_text(dataclasses.asdict(self)) + "\n")


def describe_inputs(files: Sequence[InputFile]) -> tuple[InputRecord, ...]:
    """The manifest's entries for `files`."""
    return tuple(
        InputRecord(str(file.path), file.format, file.size, file.sha256, file.rows) for file in files
    )


def refuse_link(path: Path) -> None:
    """OutputError where writing `path` would write elsewhere."""
    if path.is_symlink():
        raise OutputError("output", f"{path}, a link", "a file of this folder", "remove it")


def read_finished(folder: Path, manifest: ShardManifest, parts: Sequence[Part]) -> ShardManifest:
    """`manifest` with what is finished of its `parts` in `folder`.

    InputError when a manifest of whatever shard in the folder is of another run: other options, another
    artifact, other inputs, another number of shards.
    """
    found = manifest
    shard = Shard.parse(manifest.shard)
    for path in sorted(folder.iterdir()):
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        other = _read(path)
        named = Shard(int(match[1]), int(match[2]))
        if other.shard != str(named) or named.count != shard.count:
            expected = f"one of {shard.count} shards"
            raise InputError("output", f"{path}, of shard {other.shard!r:.20}", expected, ANOTHER_FOLDER)
        _require_same_run(manifest, other, path)
        if path.name == shard.manifest_name:
            found = _keep_finished(path, other, parts)
    return found


def _read(path: Path) -> ShardManifest:
    values = SHARD_FILE.read_version(path, "shard_manifest_version", 1)
    return SHARD_FILE.convert(path, values, ShardManifest)


def _require_same_run(manifest: ShardManifest, other: ShardManifest, path: Path) -> None:
    for name in dict.fromkeys((*manifest.options, *other.options)):
        value, earlier = manifest.options.get(name), other.options.get(name)
        if value != earlier:
            raise InputError("output", f"{name} {value!r}", f"{earlier!r:.200} as in {path}", ANOTHER_FOLDER)
    if len(manifest.inputs) != len(other.inputs):
        expected = f"{len(other.inputs)} as in {path}"
        raise InputError("file", f"{len(manifest.inputs)} files", expected, ANOTHER_FOLDER)
    for record, there in zip(manifest.inputs, other.inputs, strict=True):  # the folders may differ by machine
        same_name = Path(record.path).name == Path(there.path).name
        if not same_name or dataclasses.replace(record, path=there.path) != there:
            got = f"{record.path} ({record.rows} rows, {record.size} bytes)"
            expected = f"{there.path:.200} ({there.rows} rows, {there.size} bytes) as in {path}"
            raise InputError("file", got, expected, "restore the file, or write into another folder")


def _keep_finished(path: Path, manifest: ShardManifest, parts: Sequence[Part]) -> ShardManifest:
    """`manifest`, of the file `path`, without parts whose files are not there as a whole."""
    planned = {part.name: part for part in parts}
    kept = []
    for record in manifest.parts:
        if record.name not in planned or not record.is_of(planned.pop(record.name)):
            got = f"the part {record.name!r:.100} in {path}"
            raise InputError("output", got, "parts of this shard, each once", "write into another folder")
        file = path.parent / record.name
        refuse_link(file)
        if file.is_file() and file.stat().st_size == record.size:
            kept.append(record)
    return dataclasses.replace(manifest, parts=tuple(kept), finished=False)
