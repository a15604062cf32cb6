"""What the tensors of a reformer-pytorch checkpoint say of its keyword arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.checkpoints.lucidrains_product_keys import COUNTER, read_facts, refuse_norm
from reformer_export.checkpoints.weights import STORED_DTYPES, TensorHeader
from reformer_export.errors import CheckpointError
from reformer_export.lucidrains_spec import Architecture

Shape = tuple[int, ...]

EMBEDDING: Final = "token_emb.weight"
_WRAPPED: Final = r"((?:module\.|net\.)*)"
_CLASSES: Final[dict[Architecture, re.Pattern[str]]] = {
    "ReformerLM": re.compile(rf"{_WRAPPED}token_emb\.weight$"),
    "Reformer": re.compile(rf"{_WRAPPED}layers\.(?:irrev_)?blocks\.\d"),
    "LSHSelfAttention": re.compile(rf"{_WRAPPED}toqk\.weight$"),
}
"""A name that a class alone has, behind what a wrapper puts before it."""

BLOCK: Final = re.compile(r"((?:reformer\.)?layers\.)(?:irrev_)?blocks\.(\d{1,6})\.")

SAVE_AGAIN: Final = "save the state dict again"


@dataclass(frozen=True)
class StoredTensors:
    """A file's tensors: `prefix` is what all names begin with, `shapes` has their shapes without it;
    `model_class` is that of the names, by the tensor `because`."""

    file: Path
    prefix: str
    shapes: dict[str, Shape]
    model_class: Architecture
    because: str

    @property
    def num_wrappers(self) -> int:
        """Modules around the model when it was saved: an Autopadder is one, a TrainingWrapper two."""
        return self.prefix.count("net.")

    def error(self, got: str, expected: str, fix: str = SAVE_AGAIN) -> CheckpointError:
        return CheckpointError(self.file, got, expected, fix)


def read_names(file: Path, headers: Mapping[str, TensorHeader]) -> StoredTensors:
    """The tensors' names without what a wrapper puts before them; CheckpointError when they are of none of
    the classes, or hold no floating numbers."""
    found = {
        kind: [match for name in headers if (match := pattern.match(name))]
        for kind, pattern in _CLASSES.items()
    }
    model_class = next((kind for kind, matches in found.items() if matches), None)
    if model_class is None:
        raise CheckpointError(
            file,
            f"no tensor {EMBEDDING}, layers.blocks... or toqk.weight, bare or behind net., net.net. or "
            "module.",
            f"the state dict of a {', '.join(_CLASSES)} of reformer-pytorch",
            "give its file, of that module alone; a model of another class is not supported",
        )
    first = found[model_class][0]
    prefix = first[1]
    if prefix.count("net.") > 2:
        raise CheckpointError(file, f"names that begin with {prefix}", "net. at most twice", SAVE_AGAIN)
    headers = {name: x for name, x in headers.items() if not COUNTER.fullmatch(name.removeprefix(prefix))}
    for name, header in headers.items():
        if not name.startswith(prefix):
            expected = f"all names to begin with {prefix}"
            raise CheckpointError(file, f"the tensor {name!r:.100}", expected, SAVE_AGAIN)
        if header.dtype not in STORED_DTYPES.values():
            raise CheckpointError(
                file, f"{header.dtype} in the tensor {name}", "floating numbers", SAVE_AGAIN
            )
        if (refusal := refuse_norm(file, name.removeprefix(prefix), header.shape)) is not None:
            raise refusal
    shapes = {name.removeprefix(prefix): header.shape for name, header in headers.items()}
    return StoredTensors(file, prefix, shapes, model_class, first.string)


class Facts:
    """What the tensors' names and shapes say by themselves of the keyword arguments: `values` by keyword,
    `because` the tensor that says so."""

    def __init__(self, stored: StoredTensors) -> None:
        """Read them; CheckpointError when what every model has is missing."""
        self.values: dict[str, Any] = {}
        self.because: dict[str, str] = {}
        self._stored = stored
        if stored.model_class == "ReformerLM":
            self._read_words()
        else:
            name = self._find("toqk.weight")
            if name is None:
                raise stored.error("no tensor toqk.weight", "one in every layer")
            self._say("dim", self._shape(name, 2)[1], name)
        self._read_attention()
        if stored.model_class != "LSHSelfAttention":
            self._read_layers()
        if stored.model_class == "ReformerLM":
            self._read_head()
        self.memories = read_facts(stored.shapes)
        if len(self.memories.keys) == 4:
            self._say("pkm_num_keys", self.memories.keys[1], min(self.memories.memories.items())[1])

    def _read_words(self) -> None:
        tokens, width = self._shape(EMBEDDING, 2)
        self._say("num_tokens", tokens, EMBEDDING)
        self._say("dim", self._shape("norm.weight", 1)[0], "norm.weight")
        self._say("emb_dim", width, EMBEDDING)
        if "pos_emb.emb.weight" in self._stored.shapes:
            self._say("max_seq_len", self._shape("pos_emb.emb.weight", 2)[0], "pos_emb.emb.weight")

    def _read_attention(self) -> None:
        memory = self._find("mem_kv")
        self._say("num_mem_kv", self._shape(memory, 3)[1] if memory else 0, memory or "mem_kv")

    def _read_layers(self) -> None:
        blocks = {int(match[2]): name for name in self._stored.shapes if (match := BLOCK.match(name))}
        if not blocks:
            raise self._stored.error("no tensor reformer.layers.blocks.0...", "one layer or more")
        last = max(blocks)
        self.values["depth"], self.because["depth"] = last + 1, f"the last layer has {blocks[last]}"
        for keyword, endings in _NORMS.items():
            found = self._find(*endings)
            self._say(keyword, found is not None, found or endings[0].lstrip("."))
        inner, outer = self._find(".w1.weight"), self._find(".w2.weight")
        if inner is None or outer is None:
            return
        rows, size = self._shape(inner, 2)[0], self._shape(outer, 2)[1]
        self._say("ff_glu", rows == 2 * size, inner)
        if self.values["dim"] and size % self.values["dim"] == 0:
            self._say("ff_mult", size // self.values["dim"], outer)

    def _read_head(self) -> None:
        head = next((name for name in self._stored.shapes if name.startswith("out.")), None)
        self._say("return_embeddings", head is None, head or "out.1.weight")
        if head is not None:
            self._say("weight_tie_embedding", "out.1.tensor" in self._stored.shapes, "out.1.tensor")

    def _say(self, keyword: str, value: Any, name: str) -> None:
        self.values[keyword] = value
        shape = self._stored.shapes.get(name)
        self.because[keyword] = f"there is no {name}" if shape is None else f"{name} is {list(shape)}"

    def _find(self, *endings: str) -> str | None:
        return next((name for name in self._stored.shapes if name.endswith(endings)), None)

    def _shape(self, name: str, axes: int) -> Shape:
        found = self._stored.shapes.get(name)
        if found is None or len(found) != axes:
            got = f"no {name}" if found is None else f"{name} of shape {list(found)}"
            raise self._stored.error(got, f"it with {axes} axes")
        return found


_NORMS: Final = {
    "use_scale_norm": (".f.net.norm.g", ".f.norm.g"),
    "use_rezero": (".f.net.g", ".f.g"),
}
"""A keyword, and how the name of the tensor ends that a model with it has."""


def position_kind(stored: StoredTensors) -> tuple[str, str]:
    """(the keyword that chooses positions as the tensors have them, or "" for rotary ones; the tensor)."""
    for name, keyword in (
        ("pos_emb.weights.0", "axial_position_emb"),
        ("pos_emb.emb.weight", "absolute_position_emb"),
        ("pos_emb.inv_freq", "fixed_position_emb"),
        ("layer_pos_emb.inv_freq", ""),
    ):
        if name in stored.shapes:
            return keyword, name
    expected = "pos_emb.weights.0, pos_emb.emb.weight, pos_emb.inv_freq or layer_pos_emb.inv_freq"
    raise stored.error("no tensor of positions", expected)
