"""Changes to files of an artifact or a checkpoint, as a test wants them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reformer_export.artifact.files import sha256_of_file


def edit_json(file: Path, edit: Callable[[Any], object]) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


def change_json(file: Path, **changes: Any) -> None:
    """Change fields; ... leaves one out."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def vouch_for(file: Path, record: str = "manifest.json") -> None:
    """Let the record beside a file that was changed agree with it."""
    edit_json(
        file.with_name(record), lambda values: values["files"].update({file.name: sha256_of_file(file)})
    )
