"""A folder as one .tar.xz, or as numbered parts of it when it is too large for one file."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

LIMIT: Final = 60_000_000
"""Largest file, bytes."""


def pack(folder: Path, archive: Path, limit: int = LIMIT) -> list[Path]:
    """Write `archive`, with `folder` by its name; the files that came out, each of at most `limit` bytes.

    The same files give the same bytes, whoever packs them and when. Parts are NAME.tar.xz.1, .2 and so on,
    which `cat` joins; those of an earlier call are removed.
    """
    for old in [archive, *archive.parent.glob(archive.name + ".*")]:
        old.unlink(missing_ok=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT, preset=6) as tar:
        for path in [folder, *sorted(folder.rglob("*"))]:
            tar.add(
                path,
                f"{folder.name}/{path.relative_to(folder)}".removesuffix("/."),
                recursive=False,
                filter=_plain,
            )
    if archive.stat().st_size <= limit:
        return [archive]
    return split(archive, limit)


def split(archive: Path, limit: int) -> list[Path]:
    """The file in parts of at most `limit` bytes, in its place."""
    parts = []
    with archive.open("rb") as source:
        while data := source.read(limit):
            parts.append(archive.with_name(f"{archive.name}.{len(parts) + 1}"))
            parts[-1].write_bytes(data)
    archive.unlink()
    return parts


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
