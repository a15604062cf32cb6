from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def translated_as_captured() -> Iterator[None]:
    """No export falls back to being traced again, which takes twice as long (export/capture.py)."""

    def refuse(program: Any, *_: Any) -> None:
        raise AssertionError("the program was not translated as it was captured")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export.ExportedProgram, "run_decompositions", refuse)
        yield
