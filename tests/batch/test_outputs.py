"""Where results go: refused before any work where they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.batch import Output
from reformer_export.errors import InputError, OutputError


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("o.csv", {}, InputError, r"^output: got o\.csv, expected a name ending in \.npz or \.jsonl"),
        ("no/o.npz", {}, OutputError, "^output: got .*, whose folder does not exist"),
        ("taken.npz", {}, OutputError, "^output: got .*, a folder"),
        ("left.jsonl", {}, OutputError, "^output: got .*partial, .*`resume=True`.*`restart=True`"),
        ("o.jsonl", {"resume": True, "restart": True}, InputError, "^resume: got `restart` too"),
        ("o.npz", {"resume": True}, InputError, r"^resume: got `output` .*, expected a \.jsonl file"),
        ("o.npz", {"restart": True}, InputError, r"^restart: got `output` .*, expected a \.jsonl file"),
    ],
)
def test_outputs_are_checked_before_any_work(
    tmp_path: Path, name: str, options: dict[str, bool], error: type[Exception], message: str
) -> None:
    (tmp_path / "taken.npz").mkdir()
    (tmp_path / "left.jsonl.partial").touch()
    with pytest.raises(error, match=message):
        Output(tmp_path / name, **options)
    assert Output(tmp_path / "left.jsonl", restart=True).partial.exists()
