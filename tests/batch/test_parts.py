"""Files that are found, each once, and cut into parts, which hold each row once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.batch.parts import find_files, plan_parts, scan_file
from reformer_export.batch.shard_manifest import Shard
from reformer_export.errors import InputError


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab\r", max_size=5), max_size=30),
    ends=st.booleans(),
    part_rows=st.integers(1, 9),
    count=st.integers(1, 5),
)
def test_parts_hold_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ends: bool, part_rows: int, count: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    content = "\n".join(texts) + ("\n" if ends and texts else "")
    path.write_bytes(content.encode())
    lines = content.encode().splitlines(keepends=True) if "\r" not in content else None
    file = scan_file(path, None, part_rows)
    expected = content.split("\n")[: -1 if content.endswith("\n") or not content else None]
    assert file.rows == len(expected)
    assert lines is None or len(lines) == file.rows
    parts = plan_parts([file], part_rows, ".jsonl")
    shards = [Shard(index, count).select(parts) for index in range(count)]
    assert sorted(itertools.chain(*shards), key=lambda part: part.name) == parts
    rows = [row for part in parts for row in range(part.rows.first, part.rows.end)]
    assert rows == list(range(file.rows))
    for part in parts:
        begin = path.read_bytes()[part.rows.offset :]
        assert begin.split(b"\n")[0].decode() == expected[part.rows.first]


def test_files_are_found_and_named_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "[c].txt"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link.txt").symlink_to(tmp_path / "a.txt")
    found = find_files([f"{tmp_path}/?.txt", tmp_path / "[c].txt"])
    assert [path.name for path in found] == ["[c].txt", "a.txt", "b.txt"]
    for patterns, message in (
        ([f"{tmp_path}/*.jsonl"], "which no file fits"),
        ([tmp_path / "a.txt", f"{tmp_path}/a*"], "which are one file"),
        ([tmp_path / "a.txt", tmp_path / "d" / "link.txt"], "which are one file"),
        (["-"], "standard input"),
    ):
        with pytest.raises(InputError, match=message):
            find_files(patterns)
    for path in (tmp_path / "d", tmp_path / "missing.txt"):
        with pytest.raises(InputError, match=r"no regular file|cannot be read"):
            scan_file(path, "text", 10)
    with pytest.raises(InputError, match="arrays, expected lines or Parquet"):
        scan_file(tmp_path / "a.npz", None, 10)
