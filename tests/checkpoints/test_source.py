from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.source import Location, locate_checkpoint, read_json, tokenizer_files


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert locate_checkpoint(str(tmp_path), LoadOptions()) == Location(tmp_path, tmp_path.name)


def test_a_folder_has_no_revisions(refused, tmp_path):
    with refused("revision: got it for the folder", "leave it out"):
        locate_checkpoint(str(tmp_path), LoadOptions(revision="v1"))


def test_a_file_is_no_checkpoint(refused, tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()

    with refused("model.safetensors", "expected a folder"):
        locate_checkpoint(str(file), LoadOptions())


@pytest.mark.parametrize("source", ["", "/no/such/folder", "./nothing", "a/b/c", "a\0b", "../up", "a b"])
def test_what_can_be_no_hub_id(refused, source):
    with refused("which does not exist", "hub id"):
        locate_checkpoint(source, LoadOptions())


@pytest.fixture
def downloads(monkeypatch, tmp_path):
    """Calls of a hub client that answers with a folder, or with an error if one was put into `error`."""

    class Downloads:
        error: Exception | None = None
        arguments: dict[str, object]

        def snapshot_download(self, repo_id: str, **arguments: object) -> str:
            self.arguments = {"repo_id": repo_id, **arguments}
            if self.error is not None:
                raise self.error
            return str(tmp_path / "snapshots" / "c0ffee")

    client = Downloads()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", client.snapshot_download)
    return client


def test_a_hub_id_is_downloaded(downloads, tmp_path):
    location = locate_checkpoint("owner/model", LoadOptions(revision="v1"))

    assert location == Location(tmp_path / "snapshots" / "c0ffee", "owner/model", "v1", "c0ffee")
    assert (downloads.arguments["repo_id"], downloads.arguments["revision"]) == ("owner/model", "v1")


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_pickles_are_downloaded_only_when_asked_for(downloads, allow_pickle):
    locate_checkpoint("owner/model", LoadOptions(allow_pickle=allow_pickle))

    patterns = downloads.arguments["allow_patterns"]
    assert any(pattern.endswith(".bin") for pattern in patterns) == allow_pickle


class ConnectError(Exception):
    """Stands in for an error of the HTTP library that the hub client uses."""


def http_error(kind: type[Exception], status: int) -> Exception:
    class Response:
        status_code = status
        headers: dict[str, str] = {}  # noqa: RUF012 (a stand-in for the client's own response)
        request = None
        text = ""

    return kind("404 Client Error.\n\nSee the URL", response=Response())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (http_error(errors.GatedRepoError, 403), "accept its terms"),
        (http_error(errors.RepositoryNotFoundError, 404), "no such model"),
        (http_error(errors.RevisionNotFoundError, 404), "no such revision"),
        (http_error(errors.HfHubHTTPError, 503), "HTTP status 503"),
        (errors.LocalEntryNotFoundError("not\ncached"), "not in the cache"),
        (errors.OfflineModeIsEnabled("offline"), "no connection"),
        (errors.HFValidationError("bad id"), "not a valid id"),
        (ConnectError("refused"), "no connection: ConnectError"),
        (OSError("no route"), "no connection: OSError"),
        (OSError(28, "full"), "did not give it ('No space left on device')"),
        (PermissionError(13, "no", "/home/hub"), "did not give it ('Permission denied' (/home/hub))"),
        (ImportError("no _ssl"), "did not give it ('no _ssl')"),
    ],
)
def test_every_failure_of_the_hub_is_one_line(refused, downloads, error, reason):
    downloads.error = error

    with refused("owner/model at revision v1", reason, "give its folder"):
        locate_checkpoint("owner/model", LoadOptions(revision="v1"))


def test_offline_without_a_cache(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    with refused("owner/model", "no connection, and it is not in the cache", "give its folder"):
        locate_checkpoint("owner/model", LoadOptions())


def test_the_folder_of_a_training_names_those_of_its_checkpoints(refused, tmp_path):
    with refused("no config.json", "give the folder that `save_pretrained` wrote"):
        read_json(tmp_path / "config.json", 100)
    for name in ("checkpoint-500", "checkpoint-1000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with refused(f"; give {tmp_path / 'checkpoint-1000'} or {tmp_path / 'checkpoint-500'}"):
        read_json(tmp_path / "config.json", 100)


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1]}')

    assert read_json(tmp_path / "a.json", 100) == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b"\xff\xfe{}", "not JSON (UnicodeDecodeError)"),
        (b"[" * 100_000, "not JSON (RecursionError)"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"[1]", "a list"),
        (b"null", "a NoneType"),
        (b'{"a": "' + b"x" * 200_000 + b'"}', "200009 bytes, expected at most 200000"),
    ],
)
def test_broken_json_is_refused(refused, tmp_path, content, part):
    (tmp_path / "a.json").write_bytes(content)

    with refused("a.json", part):
        read_json(tmp_path / "a.json", 200_000)


def test_missing_json_is_refused(refused, tmp_path):
    with refused("no config.json"):
        read_json(tmp_path / "config.json", 100)


def test_tokenizer_files(tmp_path):
    for name in (
        "spiece.model",
        "config.json",
        "tokenizer_config.json",
        "training_args.bin",
        "model.safetensors",
    ):
        (tmp_path / name).touch()
    (tmp_path / "vocab.json").mkdir()

    assert [path.name for path in tokenizer_files(tmp_path)] == [
        "config.json",
        "tokenizer_config.json",
        "spiece.model",
    ]
