"""Many threads on one session: every answer compared, and no growth of memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import transformers

import reformer_export
from reformer_export.libraries.operators import find_native_library
from tests.export.test_export import export
from tests.hf_models import config_t, save_model

NUM_REQUESTS, NUM_THREADS, NUM_DISTINCT = 10_000, 8, 60
GROWTH_BYTES = 64 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("native", ["off", "on"])
def test_ten_thousand_mixed_requests(tmp_path, native):
    if native == "on" and find_native_library("auto") is None:
        pytest.skip("no native library: make native says what is missing")
    folder = save_model(tmp_path, config_t(), transformers.ReformerModel)
    export(folder, tmp_path / "out")
    model = reformer_export.load(tmp_path / "out", native=native, threads=2)
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(NUM_DISTINCT):
        batch, length = int(rng.integers(1, 4)), int(rng.integers(1, 65))
        ids = rng.integers(0, 50, (batch, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, batch)[:, None]).astype(np.int64)
        requests.append((ids, mask))
    answers = [model.run(*request)["last_hidden_state"] for request in requests]

    def is_right(index: int) -> bool:
        output = model.run(*requests[index])["last_hidden_state"]
        return np.array_equal(output, answers[index])

    order = rng.integers(0, NUM_DISTINCT, NUM_REQUESTS).tolist()
    process = psutil.Process()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        assert all(pool.map(is_right, order[:1000]))
        before = process.memory_info().rss
        assert all(pool.map(is_right, order))
    assert process.memory_info().rss - before < GROWTH_BYTES
