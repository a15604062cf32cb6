from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import reformer_export
from reformer_export.artifact import manifest as manifest_module
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import ArtifactError, InputError
from reformer_export.measure import BenchmarkOptions
from reformer_export.report.decoding_page import DecodeReport
from reformer_export.runtimes import RuntimeOptions
from reformer_export.workflows.bench import BenchRequest, bench_artifact
from reformer_export.workflows.bench_decoding import choose_decode_lengths
from tests.measure.in_process import memory_in_process


def test_an_artifact_beside_eager_and_full_attention(exported: Path) -> None:
    said: list[str] = []
    done: list[int] = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[object]:
        assert (what, total) == ("Measured", 2 * (3 + 1))
        yield done.append

    request = BenchRequest(RuntimeOptions(threads=1), lengths=(8, 20), repeat=3, warm_up=0, node_times=True)
    with memory_in_process():
        report = reformer_export.bench_artifact(exported, request, say=said.append, progress=progress)
    assert sum(done) == 2 * (3 + 1)
    assert said == [f"Runs on {report.runtime}."]
    names = [(m.length, m.name) for m in report.result.measurements]
    assert names == [(n, name) for n in (8, 20) for name in ("artifact", "eager", "full-attention")]
    assert all(len(m.seconds) == 3 and m.memory is not None for m in report.result.measurements)
    assert report.nodes is not None
    assert report.nodes.length == 20
    values = report.to_dict()
    assert {"artifact", "model_sha256", "dtype", "runtime", "results", "contenders"} <= set(values)


def test_every_file_is_hashed_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return sha256_of_file(path)

    monkeypatch.setattr(manifest_module, "sha256_of_file", count)
    bench_artifact(exported, against=(), lengths=(8,), repeat=1, memory=False)
    assert sorted(hashed) == sorted(exported / name for name in read_manifest(exported).files)


def test_fields_and_nothing_to_compare_with(exported: Path) -> None:
    report = bench_artifact(exported, against=(), lengths=(8,), batch_sizes=(1, 2), repeat=1, memory=False)
    assert [(m.batch, m.name, m.memory) for m in report.result.measurements] == [
        (1, "artifact", None),
        (2, "artifact", None),
    ]
    assert report.nodes is None


def test_what_does_not_fit(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="against: got 'numpy', expected of eager, full-attention"):
        bench_artifact(exported, against=("numpy",))
    with pytest.raises(InputError, match="lengths: got 65, expected lengths from 1 to 64"):
        bench_artifact(exported, lengths=(8, 65))
    with pytest.raises(InputError, match="options: got length, expected BenchRequest"):
        bench_artifact(exported, length=8)
    with pytest.raises(ArtifactError, match="without manifest"):
        bench_artifact(tmp_path)


def test_decoding(decoding: Path) -> None:
    said: list[str] = []
    done: list[int] = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[object]:
        assert (what, total) == ("Measured", 2 * (4 + 1))
        yield done.append

    options = {"decode": True, "repeat": 2, "warm_up": 0, "memory": False}
    report = bench_artifact(decoding, lengths=(8, 20), say=said.append, progress=progress, **options)
    assert isinstance(report, DecodeReport)
    assert sum(done) == 10
    assert said == [f"Runs on {report.runtime}."]
    names = [(m.length, m.name) for m in report.result.measurements]
    contenders = ("artifact", "artifact-passes", "eager-passes", "eager-cache")
    assert names == [(n, name) for n in (8, 20) for name in contenders]
    values = report.to_dict()
    assert values["decode_sha256"] == read_manifest(decoding).files["decode.onnx"]
    alone = bench_artifact(decoding, lengths=(8,), against=(), **options)
    assert {m.name for m in alone.result.measurements} == {"artifact", "artifact-passes"}


def test_what_does_not_decode(exported: Path, decoding: Path) -> None:
    with pytest.raises(InputError, match=r"without decode\.onnx.*`decode=True`"):
        bench_artifact(exported, decode=True)
    with pytest.raises(InputError, match="runtime: got tensorrt, expected onnxruntime"):
        bench_artifact(decoding, decode=True, runtime=RuntimeOptions("tensorrt"))
    with pytest.raises(InputError, match="against: got full-attention, expected eager"):
        bench_artifact(decoding, decode=True, against=("eager", "full-attention"))
    for length in (0, 57):
        with pytest.raises(InputError, match=f"lengths: got {length}, expected lengths from 1 to 56, which"):
            bench_artifact(decoding, decode=True, lengths=(8, length))


@pytest.mark.parametrize(
    ("longest", "repeat", "lengths"),
    [
        (64, 20, (48,)),
        (2048, 20, (256, 1024, 1872)),
        (2048, 4, (256, 1024, 2000)),
        (65536, 20, (256, 1024, 4096, 16384, 65360)),
        (524288, 20, (256, 1024, 4096, 16384, 65536)),
        (9, 20, (1,)),
    ],
)
def test_prompts_that_leave_room_for_tokens(longest: int, repeat: int, lengths: tuple[int, ...]) -> None:
    options = BenchmarkOptions((1,), repeat=repeat)
    assert choose_decode_lengths(longest, options, None) == lengths
    assert choose_decode_lengths(longest, options, (longest - 8,)) == (longest - 8,)


def test_a_model_too_short_for_a_turn() -> None:
    with pytest.raises(InputError, match="decode: got a model of at most 8 tokens, expected more than 8"):
        choose_decode_lengths(8, BenchmarkOptions((1,)), None)
