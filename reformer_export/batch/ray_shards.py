"""All shards of a run into a folder as tasks of a Ray cluster, whose nodes see the same folders.

Ray only chooses when and where a shard runs, and runs it again where its process or machine died: what is
finished is in the folder. ray is imported when it is asked for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from reformer_export.batch.files_request import FilesRequest
from reformer_export.batch.parts import find_files
from reformer_export.batch.resume import Say
from reformer_export.batch.shard_manifest import MAX_SHARDS, ShardManifest
from reformer_export.batch.shards import run_files
from reformer_export.errors import (
    InputError,
    MissingDependencyError,
    OutputError,
    ReformerExportError,
    RuntimeUnavailableError,
    one_line,
)
from reformer_export.runtimes.sampling import require_integer

RETRIES: Final = 5
"""How often a shard runs again whose process died."""


def run_on_ray(
    out: str | os.PathLike[str],
    request: FilesRequest,
    shards: int,
    say: Say = lambda sentence: None,
) -> list[ShardManifest]:
    """Run the artifact `out` over files into a folder, in so many `shards`, each a task of Ray.

    The cluster is that of RAY_ADDRESS, or one that is started here for the while. A task reserves the CPUs
    of `request.runtime.threads` (1 where it is None, and then that is what it takes), and a GPU where the
    runtime asks for one.

    Returns:
        What the shards' manifests say, in order.

    Raises:
        ReformerExportError: that of the first shard that ended with one, when all have ended.
    """
    require_integer("shards", shards, 1)
    if shards > MAX_SHARDS:
        raise InputError("shards", shards, f"at most {MAX_SHARDS}", "choose fewer")
    if request.shard != "0/1":
        raise InputError("shards", f"{shards} and `shard` {request.shard}", "one of them", "leave one out")
    ray = _import_ray()
    threads = request.runtime.threads or 1
    request = dataclasses.replace(
        request,
        files=tuple(Path(os.path.abspath(path)) for path in find_files(request.files)),
        output=Path(os.path.abspath(request.output)),
        runtime=dataclasses.replace(request.runtime, threads=threads),
    )
    out = os.path.abspath(out) if Path(out).exists() else os.fspath(out)
    with _connected(ray):
        needed = {"CPU": threads, "GPU": int(_takes_gpu(request))}
        _require_room(ray, needed)
        options = {"num_cpus": needed["CPU"], "num_gpus": needed["GPU"], "max_retries": RETRIES}
        task = ray.remote(run_files).options(**options)
        waiting = {
            task.remote(out, dataclasses.replace(request, shard=f"{index}/{shards}")): index
            for index in range(shards)
        }
        return _collect(ray, waiting, say)


def _collect(ray: Any, waiting: dict[Any, int], say: Say) -> list[ShardManifest]:
    """The results of all tasks by shard; the first shard's error, if there is one."""
    manifests: dict[int, ShardManifest] = {}
    errors: dict[int, ReformerExportError] = {}
    while waiting:
        (done, *_), _ = ray.wait(list(waiting))
        index = waiting.pop(done)
        try:
            manifests[index] = ray.get(done)
            say(f"Shard {index}: {manifests[index].totals.sequences} sequences.")
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, ReformerExportError):
                raise
            errors[index] = error.cause
            say(f"Shard {index} ended: {error.cause}")
        except ray.exceptions.RayError as error:
            fix = "look at Ray's log of it, mend it, and run again: finished parts are kept"
            got = f"shard {index} dead after {RETRIES + 1} tries ({one_line(error)})"
            errors[index] = OutputError("ray", got, "a task that ends", fix)
            say(f"Shard {index} ended: {errors[index]}")
    if errors:
        raise errors[min(errors)]
    return [manifests[index] for index in sorted(manifests)]


def _takes_gpu(request: FilesRequest) -> bool:
    """Whether the runtime asks for a GPU; Ray shows none to a task that reserves none."""
    return request.runtime.provider == "cuda" or request.runtime.runtime != "onnxruntime"


def _require_room(ray: Any, needed: dict[str, int]) -> None:
    """RuntimeUnavailableError where no node has what a task reserves: it would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= number for name, number in needed.items()) for node in nodes):
        got = "no node of the cluster with " + " and ".join(
            f"{number} {name}" for name, number in needed.items() if number
        )
        fix = "give fewer `threads`, or wait for a larger node"
        raise RuntimeUnavailableError("ray", got, "one, or a task would wait for ever", fix)


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """The cluster of this process, if it has one; else that of RAY_ADDRESS or a new one, during the block."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    new: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **new)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        got = f"no cluster at {address} ({one_line(error)})"
        raise RuntimeUnavailableError("ray", got, "a Ray cluster", "check RAY_ADDRESS") from error
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    """The module ray; MissingDependencyError names the extra that brings it."""
    # Else it would tell a host how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        fix = "pip install 'reformer-export[ray]'"
        raise MissingDependencyError("ray", f"'{error}'", "the package", fix) from error
    return ray
