from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from reformer_export import export_checkpoint
from reformer_export.serving.triton.repository import write_triton_repository
from tests.hf_models import config_t, save_model
from tests.required import skip_unless_required
from tests.runtimes.artifacts import write_custom_artifact, write_vector_artifact
from tests.serving.triton.server import FOLDER, Server, reason_not_to, run_server


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration T on bytes: up to 512 tokens, 1 or 2 hashes, with decode.onnx. All processes of one run
    share it: the first makes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "triton"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "OUT").exists():
            export(folder)
    return folder / "OUT"


def export(folder: Path) -> None:
    config = config_t(
        is_decoder=True, vocab_size=258, axial_pos_shape=[16, 32], max_position_embeddings=512, eos_token_id=2
    )
    checkpoint = save_model(folder, config, transformers.ReformerModelWithLMHead)
    export_checkpoint(checkpoint, folder / "OUT", decode=True, max_hashes=2, verify=False)


@pytest.fixture(scope="session")
def repository(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python repository of it, on one thread."""
    folder = tmp_path_factory.mktemp("triton-server") / "REPOSITORY"
    write_triton_repository(artifact, folder, provider="cpu", threads=1, queue_delay=100_000, streams=4)
    return folder


@pytest.fixture(scope="session")
def named_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with artifacts whose inputs are not ids: vectors, custom and rowless."""
    folder = tmp_path_factory.mktemp("named")
    write_vector_artifact(folder / "vectors", "float16")
    write_custom_artifact(folder / "custom", "bfloat16")
    write_custom_artifact(folder / "rowless", has_rows=False)
    return folder


@pytest.fixture(scope="session")
def named_repositories(named_artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A python repository of each."""
    folder = tmp_path_factory.mktemp("triton-named")
    for name in ("vectors", "custom", "rowless"):
        write_triton_repository(
            named_artifacts / name, folder / name, name=name, provider="cpu", threads=1, queue_delay=100_000
        )
    return [folder / name for name in ("vectors", "custom", "rowless")]


@pytest.fixture(scope="session")
def server(repository: Path, named_repositories: list[Path]) -> Iterator[Server]:
    """A tritonserver that serves all of them."""
    problem = reason_not_to()
    if problem is not None:
        pytest.skip(problem)
    if not (FOLDER / ".ready").is_file():
        skip_unless_required("no tritonserver; `make triton-server` installs one")
    with run_server([repository, *named_repositories], repository.parent / "server.log") as running:
        yield running
