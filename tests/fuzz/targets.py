"""What is fuzzed: every reader of a file or a request that a stranger may have written.

A target takes bytes and must return, or raise an error that this package raises on purpose. Anything else
(another exception, a crash, a hang, memory without bound) is a finding. No target needs atheris, so that the
tests replay the corpus without it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from reformer_export.artifact.engine_record import read_engine_record
from reformer_export.artifact.manifest import MANIFEST_NAME, MODEL_NAME, check_files, read_manifest
from reformer_export.artifact.signature import GraphTensor
from reformer_export.checkpoints.checkpoint import LoadOptions
from reformer_export.checkpoints.huggingface import load_huggingface
from reformer_export.contract import IDS_INPUT, MASK_INPUT
from reformer_export.errors import ReformerExportError
from reformer_export.runtimes.generation import GenerationOptions
from reformer_export.runtimes.inspection import inspect_onnx
from reformer_export.runtimes.onnx_structure import check_onnx_structure
from reformer_export.runtimes.source_config import read_source_config
from reformer_export.runtimes.tokenizer import load_tokenizer
from reformer_export.serving.completion_body import (
    MAX_CHOICES,
    generations_from_body,
    read_completion_body,
    read_prompts,
)
from reformer_export.serving.joining import make_joiner
from reformer_export.serving.messages import PREFIX, decode_for_worker, encode_frame
from reformer_export.serving.tensors_v2 import MAX_CHARACTERS, InferRequest, read_infer_request
from reformer_export.serving.triton.inspection import find_contradictions, inspect_repository
from reformer_export.serving.triton.record import RECORD_NAME
from tests.fuzz.seeds import SEEDS

ODD_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**70), 10**400),
    *(0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", "a", "..", "../../etc/passwd", "/etc/passwd", "model.onnx\0", "x" * 5000, "\ud800"),
    *("lsh", "local", "axial", "float64", "text-generation"),
    *([], {}, [[]], [0], [2, 4], {"kind": "lsh"}, {"": 0}),
)

AnyResult = TypeVar("AnyResult")


class Choices:
    """Decisions read from fuzzer bytes, all 0 once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, limit: int) -> int:
        """An integer from 0 to limit - 1."""
        value = int.from_bytes(self._data[self._at : self._at + 2], "little")
        self._at += 2
        return value % limit

    @property
    def exhausted(self) -> bool:
        return self._at >= len(self._data)


def edit_json(values: Any, data: bytes) -> Any:
    """A copy of `values` with nodes replaced, removed, doubled or moved, as `data` says."""
    values = copy.deepcopy(values)
    choices = Choices(data)
    while not choices.exhausted:
        holder, key = _choose_node(values, choices)
        if holder is None:
            return ODD_VALUES[choices.below(len(ODD_VALUES))]
        action = choices.below(4)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[:64]))
        elif action == 1:
            holder[f"{key}x"] = holder[key]
        else:
            holder[key] = copy.deepcopy(ODD_VALUES[choices.below(len(ODD_VALUES))])
    return values


def _choose_node(values: Any, choices: Choices) -> tuple[Any, Any]:
    holder, key = None, None
    for _ in range(1 + choices.below(6)):
        if not isinstance(values, dict | list) or not values:
            break
        keys = list(values) if isinstance(values, dict) else range(len(values))
        holder, key = values, keys[choices.below(len(keys))]
        values = holder[key]
    return holder, key


def _edited_text(data: bytes, seed: Any) -> bytes:
    """Half of the inputs are files as they are, the others edits of a good one."""
    if data[:1] != b"\x01":
        return data
    return json.dumps(edit_json(seed, data[1:])).encode("utf-8", errors="surrogatepass")


@contextlib.contextmanager
def _folder(files: dict[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="reformer-fuzz-", dir=_memory_folder()) as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        yield folder


def _memory_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def fuzz_manifest(data: bytes) -> None:
    """manifest.json, then the files that it names."""
    with _folder({MANIFEST_NAME: _edited_text(data, SEEDS.manifest), MODEL_NAME: b"model"}) as folder:
        manifest = read_manifest(folder)
        assert json.loads(json.dumps(manifest.to_dict(), allow_nan=True)) is not None
        check_files(folder, manifest)


def fuzz_source_config(data: bytes) -> None:
    """config.json and generation_config.json of an artifact."""
    text = _edited_text(data, SEEDS.config)
    with _folder({"config.json": text, "generation_config.json": text}) as folder:
        read_source_config(folder, vocab_size=100)


def fuzz_model(data: bytes) -> None:
    """model.onnx: its bounds, and what `inspect` says of it."""
    content = SEEDS.edited_model(data[1:]) if data[:1] == b"\x01" else data
    with _folder({MODEL_NAME: content}) as folder:
        check_onnx_structure(folder / MODEL_NAME)
        inspect_onnx(folder / MODEL_NAME)


def fuzz_tokenizer(data: bytes) -> None:
    """tokenizer.json of an artifact."""
    with _folder({"tokenizer.json": _edited_text(data, SEEDS.tokenizer)}) as folder:
        tokenizer = load_tokenizer(folder, vocab_size=100)
        tokenizer.decode(tokenizer.encode("a b"))


def fuzz_checkpoint_config(data: bytes) -> None:
    """A checkpoint's config.json, with weights that fit the unedited one."""
    files = {"config.json": _edited_text(data, SEEDS.config), "model.safetensors": SEEDS.weights}
    with _folder(files) as folder:
        load_huggingface(str(folder), LoadOptions())


def fuzz_checkpoint_weights(data: bytes) -> None:
    """A checkpoint's model.safetensors: the header edited, or bytes as they are."""
    files = {"config.json": json.dumps(SEEDS.config).encode()}
    files["model.safetensors"] = SEEDS.edited_weights(data[1:], edit_json) if data[:1] == b"\x01" else data
    with _folder(files) as folder:
        load_huggingface(str(folder), LoadOptions())


def fuzz_engine_record(data: bytes) -> None:
    """engines/NAME.json of an artifact."""
    with _folder({}) as folder:
        (folder / "engines").mkdir()
        (folder / "engines" / "a.json").write_bytes(_edited_text(data, SEEDS.engine_record))
        record = read_engine_record(folder, "a")
        assert record.find_profile(1, 1) in (None, *range(len(record.profiles)))


def fuzz_repository_record(data: bytes) -> None:
    """reformer-export.json of a Triton repository, and the files that it names."""
    with _folder({RECORD_NAME: _edited_text(data, SEEDS.repository_record)}) as folder:
        found = inspect_repository(folder)
        assert found.problem
        assert found.tables()


def fuzz_triton_config(data: bytes) -> None:
    """config.pbtxt of a Triton repository: a good one with bytes replaced, or bytes as they are."""
    content = SEEDS.edited(SEEDS.triton_config, data[1:]) if data[:1] == b"\x01" else data
    text = content.decode(errors="replace")
    assert list(find_contradictions("config.pbtxt", text, SEEDS.triton_fields)) or data[:1] == b"\x01"


def run_at_once(reading: Coroutine[Any, None, AnyResult]) -> AnyResult:
    """The result without a loop: there is nobody who would have a turn in between."""
    while True:
        try:
            reading.send(None)
        except StopIteration as end:
            result: AnyResult = end.value
            return result


def read_at_once(body: bytes, header_length: str | None, inputs: Sequence[GraphTensor]) -> InferRequest:
    return run_at_once(read_infer_request(body, header_length, inputs))


def fuzz_infer_request(data: bytes) -> None:
    """The body of a request to the server; an edited one has a binary tensor behind its JSON."""
    text = _edited_text(data, SEEDS.infer_request)
    is_edited = data[:1] == b"\x01"
    body, length = (text + SEEDS.binary_mask, str(len(text))) if is_edited else (text, None)
    manifest = SEEDS.served
    asked = read_at_once(body, length, manifest.inputs)
    assert len(asked.id) <= MAX_CHARACTERS
    request = make_joiner(manifest, 0).check(asked.arrays, manifest.spec.max_length, None)
    ids = request.inputs[IDS_INPUT]
    assert ids.min() >= 0
    assert ids.max() < manifest.spec.vocab_size
    assert request.inputs.get(MASK_INPUT, ids + 1).any(axis=1).all()


def fuzz_completion(data: bytes) -> None:
    """The body of a request for texts, and the messages that a worker gets of it."""
    body = read_completion_body(_edited_text(data, SEEDS.completion))
    generations = generations_from_body(body, run_at_once(read_prompts(body)), 100)
    assert 0 < len(generations) <= MAX_CHOICES
    for message, payload in generations:
        sent = decode_for_worker(encode_frame(message, len(payload))[PREFIX.size :])
        assert sent == message
        message.read_prompt(payload)
        assert 0 < GenerationOptions(**message.options).max_new_tokens <= 100


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "manifest": fuzz_manifest,
    "source_config": fuzz_source_config,
    "model": fuzz_model,
    "tokenizer": fuzz_tokenizer,
    "engine_record": fuzz_engine_record,
    "repository_record": fuzz_repository_record,
    "triton_config": fuzz_triton_config,
    "checkpoint_config": fuzz_checkpoint_config,
    "checkpoint_weights": fuzz_checkpoint_weights,
    "infer_request": fuzz_infer_request,
    "completion": fuzz_completion,
}


def run_target(name: str, data: bytes) -> None:
    """Run one target; the package's own errors are the expected answer to a bad file."""
    with contextlib.suppress(ReformerExportError):
        TARGETS[name](data)


if __name__ == "__main__":
    print(*TARGETS)
