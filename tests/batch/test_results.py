from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reformer_export.batch.results import SequenceResult, summarize_result
from reformer_export.batch.sequences import InputSequence
from reformer_export.runtimes.source_config import SourceConfig
from reformer_export.spec import Task
from tests.runtimes.artifacts import make_spec

LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], np.float32))


@pytest.mark.parametrize(
    ("task", "logits", "answer"),
    [
        (
            "text-generation",
            LOGITS,
            {
                "next_tokens": [
                    {"id": 2, "probability": 0.75, "text": None},
                    {"id": 0, "probability": 0.125, "text": None},
                    {"id": 1, "probability": 0.125, "text": None},
                ]
            },
        ),
        (
            "text-classification",
            LOGITS[0],
            {
                "labels": [
                    {"label": name, "probability": value}
                    for name, value in (("LABEL_0", 0.5), ("LABEL_1", 0.25), ("LABEL_2", 0.25))
                ]
            },
        ),
        ("fill-mask", LOGITS, {"likeliest_ids": [0, 2]}),
    ],
)
def test_a_summary_in_json(task: Task, logits: NDArray[np.float32], answer: dict[str, Any]) -> None:
    sequence = InputSequence(np.array([5, 6]), np.array([1, 1]))
    summary = summarize_result(
        SequenceResult(3, sequence, {"logits": logits}), make_spec(task), SourceConfig(), None
    )
    values = json.loads(json.dumps(summary.to_dict()), parse_float=lambda text: round(float(text), 6))
    assert values == {"index": 3, "tokens": 2, "outputs": {"logits": list(logits.shape)}, **answer}
