from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reformer_export.errors import ArtifactError
from reformer_export.runtimes.source_config import SourceConfig, read_source_config


def read(folder: Path, config: Any = None, generation: Any = None) -> SourceConfig:
    for name, values in (("config.json", config), ("generation_config.json", generation)):
        if values is not None:
            (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return read_source_config(folder, vocab_size=100)


def test_what_the_files_say(tmp_path: Path) -> None:
    assert read(tmp_path) == SourceConfig()
    config = {"pad_token_id": 3, "eos_token_id": 4, "id2label": {"0": "no", "x": "y"}}
    assert read(tmp_path, config) == SourceConfig(3, (4,), {0: "no"})
    assert read(tmp_path, config, {"eos_token_id": [5, 100, True, 6]}).eos_token_ids == (5, 6)


@pytest.mark.parametrize("text", ["{", "[]", "null", "9" * 5000])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match=r"config.json: got .*, expected a JSON object; restore the file"):
        read(tmp_path, text)
