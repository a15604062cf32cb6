from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import EngineFlags
from reformer_export.engine import EngineOptions, size_from_text
from reformer_export.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512M", 512 * 2**20), ("4g", 2**32), ("4GiB", 2**32), (" 2 kB ", 2048), ("1T", 2**40)],
)
def test_sizes(text: str, size: int) -> None:
    assert size_from_text(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "G", "4X", "9" * 16, "9999999T"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(InputError, match="workspace: got"):
        size_from_text(text)


def test_the_runtime_names_an_engine_without_a_name() -> None:
    assert EngineOptions("tensorrt-rtx").engine_name == "tensorrt-rtx"
    assert EngineOptions("tensorrt", name="mine").engine_name == "mine"
    assert EngineOptions("tensorrt", decode=True).engine_name == "tensorrt-decode"
    assert EngineOptions("tensorrt", name="mine", decode=True).engine_name == "mine"


@pytest.mark.parametrize(
    ("runtime", "options", "message"),
    [
        (
            "tensorrt",
            {"compute_capabilities": ("8.9",)},
            "compute_capabilities: got it with",
        ),
        (
            "tensorrt-rtx",
            {"flags": EngineFlags(hardware_compatible=True)},
            "hardware_compatible: got it",
        ),
        (
            "tensorrt-rtx",
            {"flags": EngineFlags(version_compatible=True)},
            "version_compatible: got it",
        ),
        (
            "tensorrt-rtx",
            {"timing_cache": Path("x")},
            'timing_cache: got it with `runtime="tensorrt-rtx"`, expected none, because',
        ),
        ("tensorrt-rtx", {"compute_capabilities": ("SM89",)}, "got 'SM89', expected a version such as 8.9"),
        ("tensorrt-rtx", {"compute_capabilities": ("8.9", "8.9")}, "expected each once"),
        ("tensorrt", {"builder_level": 6}, "builder_level: got 6, expected 0 to 5"),
        ("tensorrt", {"capacity": 64}, "capacity: got 64 without `decode`"),
    ],
)
def test_options_that_mean_nothing(runtime: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineOptions(runtime, **options)
