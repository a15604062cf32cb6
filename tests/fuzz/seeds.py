"""One good file of every kind, small, for the fuzz targets to edit."""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from reformer_export import write_triton_repository
from reformer_export.artifact.engine_record import record_text
from reformer_export.artifact.manifest import Manifest
from reformer_export.serving.triton.options import TritonFields
from reformer_export.serving.triton.record import RECORD_NAME
from reformer_export.serving.triton.text_format import message_from_text
from tests.artifact.test_engine_record import RECORD
from tests.hf_models import config_t, save_model
from tests.runtimes.artifacts import make_manifest, make_model, make_spec, write_artifact


class Seeds:
    """Each is made once, on first use."""

    @functools.cached_property
    def manifest(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            artifact = write_artifact(Path(folder) / "artifact")
            return json.loads((artifact / "manifest.json").read_text())

    @functools.cached_property
    def infer_request(self) -> Any:
        ids = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [5, 6, 7]}
        size = {"binary_data_size": len(self.binary_mask)}
        mask = {"name": "attention_mask", "shape": [1, 3], "datatype": "INT64", "parameters": size}
        outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
        return {"id": "a", "inputs": [ids, mask], "outputs": outputs, "parameters": {"num_hashes": 1}}

    @functools.cached_property
    def completion(self) -> Any:
        draw = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "n": 2, "max_tokens": 7}
        told = {"stream": True, "stream_options": {"include_usage": True}, "echo": True, "stop": ["a", "b"]}
        return {"model": "tiny", "prompt": ["a", "b"], "user": "c", "logprobs": None, **draw, **told}

    @functools.cached_property
    def binary_mask(self) -> bytes:
        """Behind the JSON of `infer_request`: 1, 1, 0."""
        return struct.pack("<3q", 1, 1, 0)

    @functools.cached_property
    def served(self) -> Manifest:
        return make_manifest(Path(), make_spec(), "float32", ())

    @functools.cached_property
    def engine_record(self) -> Any:
        return json.loads(record_text(dataclasses.replace(RECORD, name="a")))

    @functools.cached_property
    def repository_record(self) -> Any:
        return json.loads((self._repository / RECORD_NAME).read_text())

    @functools.cached_property
    def triton_config(self) -> bytes:
        """Of the backend whose configuration says most."""
        with tempfile.TemporaryDirectory() as folder:
            out = write_artifact(Path(folder) / "OUT")
            fields: TritonFields = {"backend": "onnxruntime", "native": "off", "provider": "cuda"}
            repository = write_triton_repository(out, Path(folder) / "R", **fields).folder
            return (repository / "reformer" / "config.pbtxt").read_bytes()

    @functools.cached_property
    def triton_fields(self) -> dict[str, list[Any]]:
        return message_from_text("config.pbtxt", self.triton_config.decode())

    @functools.cached_property
    def _repository(self) -> Path:
        self._keep_repository = tempfile.TemporaryDirectory()
        folder = Path(self._keep_repository.name)
        write_triton_repository(write_artifact(folder / "OUT"), folder / "R")
        return folder / "R"

    @functools.cached_property
    def config(self) -> Any:
        return json.loads((self._checkpoint / "config.json").read_text())

    @functools.cached_property
    def weights(self) -> bytes:
        return (self._checkpoint / "model.safetensors").read_bytes()

    @functools.cached_property
    def tokenizer(self) -> Any:
        import tokenizers

        words = {"[UNK]": 0, "a": 1, "b": 2}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        return json.loads(tokenizer.to_str())

    @functools.cached_property
    def model(self) -> bytes:
        model = make_model(make_spec(vocab_size=8))  # small: edits then meet more than weights
        weight = model.graph.initializer.add(name="outside", data_type=1, dims=[1], data_location=1)
        weight.external_data.add(key="location", value="model.onnx.data")
        content: bytes = model.SerializeToString()
        return content

    @functools.cached_property
    def _checkpoint(self) -> Path:
        self._keep = tempfile.TemporaryDirectory()
        return save_model(
            Path(self._keep.name), config_t(is_decoder=True), transformers.ReformerModelWithLMHead
        )

    def edited_model(self, data: bytes) -> bytes:
        """The model with bytes replaced."""
        return self.edited(self.model, data)

    def edited(self, seed: bytes, data: bytes) -> bytes:
        """`seed` with bytes replaced: three bytes an edit, two for the place and one for the value."""
        content = bytearray(seed)
        for at in range(0, len(data) - 2, 3):
            content[int.from_bytes(data[at : at + 2], "little") % len(content)] = data[at + 2]
        return bytes(content)

    def edited_weights(self, data: bytes, edit: Callable[[Any, bytes], Any]) -> bytes:
        """The safetensors file with an edited header of the right length."""
        (length,) = struct.unpack("<Q", self.weights[:8])
        header = edit(json.loads(self.weights[8 : 8 + length]), data)
        text = json.dumps(header).encode("utf-8", errors="surrogatepass")
        return struct.pack("<Q", len(text)) + text + self.weights[8 + length :]


SEEDS = Seeds()
