"""Shards as tasks of Ray: rows as of one process, each once, though processes die."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reformer_export import run_files
from reformer_export.batch import FilesRequest
from reformer_export.batch.ray_shards import run_on_ray
from reformer_export.errors import InputError, MissingDependencyError, RuntimeUnavailableError
from reformer_export.runtimes import RuntimeOptions
from tests.batch.test_resume import write_input
from tests.batch.test_shards import parts_of
from tests.runtimes.artifacts import write_artifact


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "out", "text-classification")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="pip install 'reformer-export[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


def request(folder: Path, lines: int = 200, **fields: Any) -> FilesRequest:
    path = write_input(folder / "in.jsonl", lines)
    fields = {"part_rows": 5, "on_error": "skip", "runtime": RuntimeOptions(threads=1), **fields}
    return FilesRequest((path,), folder / "r", **fields)


def kill_workers(cluster: Any, folder: Path, killed: list[int]) -> None:
    """Kill each process that runs a shard, once, as soon as it has begun a manifest."""
    end = time.monotonic() + 60
    while len(killed) < 2 and time.monotonic() < end:
        for process in psutil.Process().children(recursive=True):
            try:
                if "run_files" in " ".join(process.cmdline()) and list(folder.glob("r/shard-*.json")):
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
            except psutil.Error:
                continue
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by their names")
def test_shards_whose_processes_die_are_run_again(cluster: Any, out: Path, tmp_path: Path) -> None:
    wanted = request(tmp_path, 2000)
    killed: list[int] = []
    killer = threading.Thread(target=kill_workers, args=(cluster, tmp_path, killed))
    killer.start()
    manifests = run_on_ray(out, wanted, 3)
    killer.join()
    assert len(killed) >= 2
    assert [manifest.shard for manifest in manifests] == ["0/3", "1/3", "2/3"]
    assert sum(manifest.totals.sequences + manifest.totals.skipped for manifest in manifests) == 2000
    run_files(out, FilesRequest(wanted.files, tmp_path / "one", part_rows=5, on_error="skip"))
    assert parts_of(tmp_path / "r") == parts_of(tmp_path / "one")
    rows = [json.loads(line) for part in parts_of(tmp_path / "r").values() for line in part.splitlines()]
    assert [row["index"] for row in rows] == list(range(2000))


@pytest.mark.slow
def test_a_bad_row_is_named_and_the_other_shards_end(cluster: Any, out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.jsonl, line 97: input_ids: got id 999") as caught:
        run_on_ray(out, request(tmp_path, 150, on_error="stop", part_rows=50), 3)
    assert type(caught.value) is InputError
    assert len(parts_of(tmp_path / "r")) == 2


@pytest.mark.slow
def test_what_no_node_has_is_not_waited_for(cluster: Any, out: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no node of the cluster with 1 CPU and 1 GPU"):
        run_on_ray(out, request(tmp_path, runtime=RuntimeOptions(provider="cuda")), 2)
    assert not (tmp_path / "r").exists()


def test_without_ray_the_extra_is_named(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'reformer-export\[ray\]'"):
        run_on_ray(out, request(tmp_path), 2)
    with pytest.raises(InputError, match=r"^shards: got 2 and `shard` 1/2, expected"):
        run_on_ray(out, request(tmp_path, shard="1/2"), 2)
