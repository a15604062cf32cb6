from __future__ import annotations

import functools
import json
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import transformers

from reformer_export import export
from reformer_export.artifact.manifest import check_files, read_manifest
from reformer_export.cli.failures import leave_on_termination
from reformer_export.parity import compare, session, sweep
from reformer_export.spec import LSHAttentionSpec
from tests.cli.program import Outcome, run_program, snapshot
from tests.edits import change_json
from tests.hf_models import config_t, save_model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved ReformerModel of configuration T; not to be changed."""
    return save_model(tmp_path_factory.mktemp("encoder"), config_t(), transformers.ReformerModel)


@pytest.fixture(scope="module")
def exported(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`encoder` exported by the program; not to be changed."""
    out = tmp_path_factory.mktemp("exported") / "out"
    outcome = run_program("onnx", encoder, out)
    assert outcome.status == 0, outcome.stderr
    assert outcome.messages == []
    assert f"{out}: feature-extraction, 2 layers, float32, up to 64 tokens" in outcome.stdout
    assert "largest difference to eager" in outcome.stdout
    return out


@pytest.fixture
def checkpoint(encoder: Path, tmp_path: Path) -> Path:
    """A copy of `encoder` to be damaged."""
    return Path(shutil.copytree(encoder, tmp_path / "checkpoint"))


def refused(checkpoint: object, out: Path, *options: object) -> str:
    """The error of an export that is the user's fault and leaves nothing behind."""
    before = snapshot(out.parent)
    outcome = run_program("onnx", checkpoint, out, *options)
    assert outcome.status == 2, outcome
    assert outcome.stdout == ""
    assert snapshot(out.parent) == before
    for part in ("got", "expected", "; "):
        assert part in outcome.error
    return outcome.error


# What a good export leaves


def test_the_artifact_is_whole(exported: Path, encoder: Path) -> None:
    assert {path.name for path in exported.parent.iterdir()} == {"out"}
    assert {path.name for path in exported.iterdir()} == {"model.onnx", "manifest.json", "config.json"}
    manifest = read_manifest(exported)
    check_files(exported, manifest)
    assert manifest.parity is not None
    assert manifest.parity["passed"]
    assert manifest.parity["max_pinned_error"] < 1e-5
    assert (exported / manifest.source["path"]).resolve() == encoder.resolve()
    assert str(encoder.parent) not in (exported / "manifest.json").read_text().replace(
        manifest.source["path"], ""
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_passes_its_own_comparison(encoder: Path, tmp_path: Path, dtype: str) -> None:
    outcome = run_program("onnx", encoder, tmp_path / "out", "--dtype", dtype, "--json")
    assert outcome.status == 0, outcome.stderr
    values = json.loads(outcome.stdout)
    assert (values["dtype"], values["parity"]["passed"]) == (dtype, True)
    weights = {tensor.name: tensor.data_type for tensor in _load(tmp_path / "out").graph.initializer}
    words = weights["embeddings.word_embeddings.weight"]
    assert words == onnx.TensorProto.DataType.Value(dtype.upper())
    assert weights["encoder.layer_norm.weight"] == onnx.TensorProto.FLOAT


def test_options_reach_the_artifact_and_json_is_its_manifest(encoder: Path, tmp_path: Path) -> None:
    hashing = ("--num-hashes", 3, "--num-buckets", "2X4", "--hash-seed", 9)
    others = ("--max-length", 20, "--chunk-feed-forward", 4, "--opset", 18, "--no-verify")
    outcome = run_program("onnx", encoder, tmp_path / "out", *hashing, *others, "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    values = json.loads(outcome.stdout)
    assert values == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (values["parity"], values["opset"]) == (None, 18)
    spec = read_manifest(tmp_path / "out").spec
    assert spec.layers[1] == LSHAttentionSpec(8, 1, 0, num_hashes=3, num_buckets=(2, 4), hash_seed=9)
    assert (spec.max_length, spec.feed_forward_slices) == (24, 4)
    imports = {imported.domain: imported.version for imported in _load(tmp_path / "out").opset_import}
    assert imports == {"": 18, "reformer": 1}


def test_unset_buckets_follow_the_greatest_length(tmp_path: Path) -> None:
    """Case 4: num_buckets None, for 64 tokens in chunks of 8, is 16 buckets; 5 is refused."""
    folder = save_model(tmp_path, config_t(num_buckets=None), transformers.ReformerModel)
    outcome = run_program("onnx", folder, tmp_path / "out", "--max-length", 64, "--json", "--no-verify")
    assert outcome.status == 0, outcome.stderr
    values = json.loads(outcome.stdout)
    assert values["spec"]["layers"][1]["num_buckets"] == [16]
    assert values["source"]["num_buckets"]["checkpoint"] is None
    message = refused(folder, tmp_path / "other", "--num-buckets", 5)
    assert "--num-buckets: got 5, expected even numbers" in message


# Bad checkpoints


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "got no config.json"),
        (b"", "not JSON"),
        (b'{"model_type": "reformer",', "not JSON"),
        (b"[1]", "JSON that is a list"),
        (b'{"model_type": "bert"}', "model_type: got 'bert', expected 'reformer'"),
    ],
)
def test_a_missing_or_broken_config(
    checkpoint: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    (checkpoint / "config.json").unlink()
    if content is not None:
        (checkpoint / "config.json").write_bytes(content)
    assert message in refused(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token_id": 50}, "pad_token_id: got 50, expected a token id from 0 to 49"),  # case 10
        ({"num_buckets": [4, 3]}, "num_buckets: got 4x3, expected even numbers"),  # case 10
        ({"axial_pos_embds_dim": [8, 9]}, "axial"),
        ({"vocab_size": 51}, "embeddings.word_embeddings.weight"),
        ({"feed_forward_size": 64}, "feed_forward"),
        ({"attn_layers": ["local", "lsh", "lsh"]}, "layers"),
    ],
)
def test_a_config_that_does_not_fit(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    change_json(checkpoint / "config.json", **changes)
    assert message in refused(checkpoint, tmp_path / "out")


def test_too_few_positions_for_the_padded_length(tmp_path: Path) -> None:
    """Case 10: 5 x 4 axial positions hold 20 tokens, but chunks of 8 need 24 from 17 tokens on."""
    config = config_t(axial_pos_shape=[5, 4])
    folder = save_model(tmp_path, config, transformers.ReformerModel)
    message = refused(folder, tmp_path / "out", "--max-length", 17)
    assert "got 17 tokens, expected at most 16: the model has 20 positions" in message


def test_truncated_weights(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "model.safetensors" in refused(checkpoint, tmp_path / "out")
    path.unlink()
    assert "safetensors" in refused(checkpoint, tmp_path / "out")


def _with_header(content: bytes, edit: Any) -> bytes:
    """A safetensors file with its header (JSON behind a length of 8 bytes) changed by `edit`."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    edit(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda header: header.pop("encoder.layer_norm.weight"), id="a tensor is missing"),
        pytest.param(
            lambda header: header["encoder.layer_norm.weight"].update(data_offsets=[0, 2**40]),
            id="offsets beyond the file",
        ),
        pytest.param(lambda header: header["encoder.layer_norm.weight"].update(shape=[16]), id="shape"),
        pytest.param(lambda header: header["encoder.layer_norm.weight"].update(dtype="I32"), id="dtype"),
        pytest.param(lambda header: header.clear(), id="no tensors"),
    ],
)
def test_tampered_weights(checkpoint: Path, tmp_path: Path, edit: Any) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(_with_header(path.read_bytes(), edit))
    refused(checkpoint, tmp_path / "out")


def test_a_checkpoint_that_is_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for checkpoint in (tmp_path / "nowhere", tmp_path / "file", "", "a/b/c"):
        assert "expected" in refused(checkpoint, tmp_path / "out")


# Bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-buckets", "5"), "--num-buckets: got 5, expected even numbers"),
        (("--num-buckets", "4x3"), "--num-buckets: got 4x3, expected even numbers"),
        (("--num-buckets", "8x"), "--num-buckets: got '8x', expected a number or its factors"),
        (("--num-buckets", "0"), "--num-buckets: got 0"),
        (("--num-buckets", "many"), "--num-buckets: got 'many'"),
        (("--opset", "17"), "opset: got 17, expected 18 to"),
        (("--opset", "0"), "opset: got 0, expected 18 to"),
        (("--chunk-feed-forward", "3"), "got 3, expected a divisor of the feed-forward size 32"),
        (("--logits", "last"), "expected 'all' for the task feature-extraction"),
        (("--task", "text-generation"), "task: got text-generation"),
        (("--max-length", "65"), "max length: got 65 tokens, expected at most 64"),
        (("--hash-seed", str(2**64)), "--hash-seed: got 1844"),
    ],
)
def test_options_that_do_not_fit(
    encoder: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in refused(encoder, tmp_path / "out", *options)


@pytest.mark.parametrize(
    "options",
    [
        ("--dtype", "int8"),
        ("--task", "translation"),
        ("--logits", "some"),
        ("--max-length", "0"),
        ("--num-hashes", "0"),
        ("--chunk-feed-forward", "0"),
        ("--opset", "new"),
    ],
)
def test_options_that_click_refuses(encoder: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    outcome = run_program("onnx", encoder, tmp_path / "out", *options)
    assert outcome.status == 2
    assert f"'{options[0]}'" in outcome.error
    assert options[1] in outcome.error
    assert snapshot(tmp_path) == {}


# OUT


def test_what_exists_is_kept(encoder: Path, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("out", "folder", "file"):
        assert "which exists, expected a new folder" in refused(encoder, tmp_path / name)
    for name in ("folder", "file"):
        assert "expected an artifact to overwrite" in refused(encoder, tmp_path / name, "--overwrite")
    assert "expected an artifact to overwrite" in refused(encoder, encoder, "--overwrite")


def test_overwrite_replaces_only_when_it_succeeds(
    encoder: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    refused(encoder, out, "--overwrite", "--num-buckets", "5")  # before the folder is begun

    def fail(_checkpoint: object, folder: Path, *_options: object) -> None:
        (folder / "model.onnx").write_bytes(b"half")
        raise RuntimeError("a library\nfailed")

    with monkeypatch.context() as patched:
        patched.setattr(export, "write_artifact", fail)
        message = refused(encoder, out, "--overwrite")
    assert "exporting: got RuntimeError: a library failed, expected it to work" in message

    outcome = run_program("onnx", encoder, out, "--overwrite", "--no-verify", "--num-hashes", 1)
    assert outcome.status == 0, outcome.stderr
    assert "not compared with eager" in outcome.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    layer = read_manifest(out).spec.layers[1]
    assert isinstance(layer, LSHAttentionSpec)
    assert layer.num_hashes == 1


def test_a_failed_comparison_writes_nothing(
    encoder: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 1, the worst case named, and what was there before is still there."""
    shutil.copytree(exported, tmp_path / "out")
    before = snapshot(tmp_path)
    monkeypatch.setitem(compare.TOLERANCE, "float32", 1e-12)
    monkeypatch.setattr(sweep, "NOISE_UNITS", 0)  # eager's own noise would explain such an error
    outcome = run_program("onnx", encoder, tmp_path / "out", "--overwrite", "--json")
    assert (outcome.status, outcome.stdout) == (1, "")
    assert "parity with eager: FAILED: 2 of 3 cases; the arithmetic differs" in outcome.error
    assert "--no-verify" in outcome.error
    assert snapshot(tmp_path) == before


# The disk is full


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Refuse every write beyond `size` bytes of a file, as a full disk does (EFBIG in place of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_half_way(encoder: Path, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    half = (exported / "model.onnx").stat().st_size // 2
    for out, options in ((tmp_path / "out", ["--overwrite"]), (tmp_path / "a" / "new", [])):
        with files_of_at_most(half):
            message = refused(encoder, out, *options)
        assert f"writing {out}: got 'File too large'" in message
        assert "free some space" in message
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_is_full_while_external_weights_are_written(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external = functools.partial(export.ExportOptions, external_data_threshold=1000)
    monkeypatch.setattr(export, "ExportOptions", external)
    with files_of_at_most(4000):
        refused(encoder, tmp_path / "out")


def test_a_disk_that_is_full_while_comparing(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison writes a copy of the graph to TMPDIR."""
    open_session = session.open_session

    @contextmanager
    def open_on_full_disk(*arguments: Any, **options: Any) -> Iterator[object]:
        with files_of_at_most(4000), open_session(*arguments, **options) as opened:
            yield opened

    monkeypatch.setattr(session, "open_session", open_on_full_disk)
    message = refused(encoder, tmp_path / "out")
    assert "'File too large'" in message
    assert "free some space (in TMPDIR too)" in message


# Interrupts


@pytest.fixture(scope="module")
def interrupted(
    encoder: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[signal.Signals, tuple[Outcome, Path]]:
    """Programs that got a signal while they traced, and the folders that they were to write into."""
    outcomes = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        folder = tmp_path_factory.mktemp("interrupted")
        shutil.copytree(exported, folder / "out")
        module = [sys.executable, "-m", "reformer_export.cli.main"]
        process = subprocess.Popen(
            [*module, "onnx", str(encoder), "out", "--overwrite"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        assert process.stderr is not None
        seen = ""
        while not seen.endswith("Tracing and writing the graph ...\n"):
            line = process.stderr.readline()
            assert line, seen
            seen += line
        while not list(folder.glob(".out.partial-*")):
            assert process.poll() is None, seen
            time.sleep(0.01)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        outcomes[number] = (Outcome(process.returncode, stdout, seen + stderr), folder)
    return outcomes


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, "Interrupted: nothing half-written was left behind."),
        (signal.SIGTERM, 143, "Terminated: nothing half-written was left behind."),
    ],
)
def test_an_interrupt_leaves_nothing_half_written(
    interrupted: dict[signal.Signals, tuple[Outcome, Path]],
    exported: Path,
    number: signal.Signals,
    status: int,
    message: str,
) -> None:
    outcome, folder = interrupted[number]
    # When the signal falls into an exec() of a library, Python itself ends the process by that signal in
    # the end, which a shell reports as the same 128 + n.
    assert outcome.status in (status, -number)
    assert (outcome.stdout, outcome.messages) == ("", [message])
    assert [path.name for path in folder.iterdir()] == ["out"]
    assert snapshot(folder / "out") == snapshot(exported)


def test_handlers_of_signals_are_put_back(encoder: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    refused(encoder, tmp_path / "out", "--opset", "17")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with leave_on_termination():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


# Left padding (case 10) is the runtimes' affair; here only that the program tells it


def test_left_padding_is_told(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.jsonl").write_text('{"input_ids": [5, 6, 7], "attention_mask": [0, 1, 1]}\n')
    outcome = run_program("run", exported, "--file", tmp_path / "ids.jsonl", "--json")
    assert outcome.status == 0
    json.loads(outcome.stdout)
    (message,) = outcome.messages
    assert "left" in message.lower()


def _load(out: Path) -> onnx.ModelProto:
    return onnx.load(str(out / "model.onnx"))
