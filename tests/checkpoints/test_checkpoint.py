from __future__ import annotations

import pytest

from reformer_export.checkpoints.checkpoint import LoadOptions


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"task": "translation"}, "`task`"),
        ({"max_length": 0}, "`max_length`"),
        ({"logits": "few"}, "`logits`"),
    ],
)
def test_options_are_checked(refused, options, part):
    with refused(part):
        LoadOptions(**options)
