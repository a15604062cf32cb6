"""The values of reformer-pytorch's own model at the points of an exported graph, read by forward hooks.

The package is not changed: hooks see what its modules take and give. They are arranged as a graph has them:
a layer's memory before the sequence, where the package has it behind; and as many rows as the graph pads to,
with zeros where the package, which does not pad what attends densely, has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.contract import PRODUCT
from reformer_export.lucidrains_spec import LucidrainsSpec, RotaryPositionsSpec
from reformer_export.product_keys_spec import QUERY_SIZE
from reformer_export.reference.eager_values import Values, last_rows
from reformer_export.reference.rounded import multiply

Rows = Literal["padded", "given", "keys", "queries", "positions", "halves"]
"""What a value has a row for: the tokens with their padding; those that were given, or of these the last
attended one where only it has logits; the memory and the padded tokens; the same, but nothing of the memory,
which asks for nothing; positions, without a batch; the halves of what each padded token asks a product-key
memory, [B * L, halves, size]."""

Pick = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], torch.Tensor | None]
"""(module, inputs, keyword inputs, output) -> the value, or None where the package has none."""

ATTENTION: Final = ".attention.self_attention"
"""Behind a layer's name: its attention."""

SCALED: Final = ".scaled_query_key"
"""Behind an attention's name: its queries and keys as LSHAttention reads them, turned and scaled."""

HASH_HEADS: Final = ".hash_heads"
"""Behind an attention's name: what the heads that hash, or attend to everything, result in."""

LOCAL_HEADS: Final = ".local_heads"
"""Behind an attention's name: what its local heads result in."""

OPERATOR: Final = ".operator"
"""Behind either of them: before what the graph does for masked tokens."""


@dataclass
class _Gathered:
    """A point's value in the pieces of several calls, to be joined along `dim`; [B * heads, n, D] where
    `heads` is not 0."""

    rows: Rows
    heads: int
    dim: int
    pieces: list[torch.Tensor] = field(default_factory=list)


class LucidrainsValueReader:
    """Hooks that gather the values of the points in `names` (None: all), of one forward pass."""

    def __init__(
        self,
        spec: LucidrainsSpec,
        attention_mask: NDArray[np.int64],
        names: Collection[str] | None,
        running_layer: Callable[[], int | None],
    ) -> None:
        """`attention_mask` int64 [B, L]; `running_layer` says which layer runs: tied ones share modules."""
        self.spec = spec
        self._mask = attention_mask
        self._names = names
        self._layer = running_layer
        self._gathered: dict[str, _Gathered] = {}

    def attach(self, net: Any) -> Iterator[Any]:
        """Put the hooks on a model of the package, without its wrapper; the handles that remove them."""
        if self._names is not None and not self._names:
            return
        if hasattr(net, "token_emb"):  # not where a model takes vectors
            yield from self._attach_embeddings(net)
        yield from self._attach_end(net)
        if hasattr(net, "toqk"):
            yield self._keep(net, ".attention", _output)
            yield from self._attach_attention(net)
            return
        layers = getattr(net, "reformer", net).layers
        shared: dict[int, Iterator[Any]] = {}  # one for all layers that are tied
        for reversible, irreversible in zip(layers.blocks, layers.irrev_blocks, strict=True):
            for block in (reversible, irreversible):  # of which one runs
                yield self._keep(block, ".attention_stream", _half(0))
                yield self._keep(block, ".hidden_states", _half(1))
            attention, feed_forward = irreversible.f, irreversible.g
            yield from self._attach_residual(attention, ".attention")
            yield from self._attach_residual(feed_forward, ".feed_forward")
            shared[id(attention.fn)] = self._attach_attention(attention.fn)
            shared[id(feed_forward.fn)] = self._attach_feed_forward(feed_forward.fn)
        for handles in shared.values():
            yield from handles

    def values(self) -> Values:
        """What the hooks gathered, by point."""
        return {name: self._arrange(found) for name, found in self._gathered.items()}

    def _attach_embeddings(self, net: Any) -> Iterator[Any]:
        yield self._keep(net.token_emb, "embeddings.word_embeddings", _output)
        yield self._keep(net.pos_emb, "embeddings.position_embeddings", _positions, "positions")
        yield self._keep(net.to_model_dim, "embeddings.sum", _input)
        yield from self._attach_linear(net.to_model_dim, "embeddings.projection")
        yield self._keep(net.to_model_dim, "embeddings", _output)
        if isinstance(self.spec.positions, RotaryPositionsSpec):
            for part, name in enumerate(("sines", "cosines")):
                yield self._keep(
                    net.layer_pos_emb, f"rotary_positions.{name}", self._angles(part), "positions"
                )

    def _attach_end(self, net: Any) -> Iterator[Any]:
        layers = getattr(net, "reformer", net)
        last = getattr(net, "norm", layers)
        yield self._keep(layers, "encoder.mean", _output)
        yield self._keep(
            last, "encoder.layer_norm", _output, "given" if self.spec.logits == "last" else "padded"
        )
        if self.spec.task == "feature-extraction":
            yield self._keep(last, self.spec.output_names[0], _output, "given")
            return
        for module, name in zip(net.out, ("projection", "decoder"), strict=True):
            yield from self._attach_linear(module, f"lm_head.{name}", "given")

    def _attach_residual(self, residual: Any, name: str) -> Iterator[Any]:
        """A PreNorm, or a ReZero, which has no norm but a gate."""
        if hasattr(residual, "norm"):
            yield self._keep(residual.norm, f"{name}.layer_norm", _output)
        else:
            yield self._keep(residual, f"{name}.layer_norm", _input)
        yield self._keep(residual, name, _output)

    def _attach_attention(self, attention: Any) -> Iterator[Any]:
        yield self._keep(attention.toqk, f"{ATTENTION}.query_key", _output, "keys")
        yield self._keep(attention.tov, f"{ATTENTION}.value", _output, "keys")
        heads, local = self.spec.num_hash_heads, self.spec.num_local_heads
        for inner in (attention.lsh_attn, attention.full_attn):  # the second where attention is dense
            yield self._keep(inner, ATTENTION + SCALED, self._scaled_query_key, "keys", heads)
            yield self._keep(inner, ATTENTION + HASH_HEADS, _first_output, "padded", heads)
            yield self._keep(inner, ATTENTION + HASH_HEADS + OPERATOR, _first_output, "queries", heads)
        for name in (LOCAL_HEADS, LOCAL_HEADS + OPERATOR):
            yield self._keep(attention.local_attn, ATTENTION + name, _output, "padded", local)
        yield self._keep(attention.to_out, ATTENTION, _input)
        yield from self._attach_linear(attention.to_out, ".attention.output.dense")

    def _attach_feed_forward(self, chunked: Any) -> Iterator[Any]:
        """Its modules are called for one slice of the tokens after the other; a product-key memory's once."""
        if hasattr(chunked, "to_queries"):
            memory = ".feed_forward.memory"
            yield self._keep(chunked.to_queries, f"{memory}.query", _output)
            yield self._keep(chunked.norm, f"{memory}.query_norm", self._halves, "halves")
            return
        inner, outer = chunked.fn.w1, chunked.fn.w2
        for module, pick, name in (
            (inner, _output, "inner"),
            (outer, _input, "activation"),
            (outer, _output, "outer"),
        ):
            yield self._keep(module, f".feed_forward.{name}", pick, dim=-2)

    def _attach_linear(self, module: Any, name: str, rows: Rows = "padded") -> Iterator[Any]:
        """A linear module, and its product without the bias; nothing for one that passes on what it gets."""
        if isinstance(module, torch.nn.Identity):
            return
        yield self._keep(module, name, _output, rows)
        if isinstance(module, torch.nn.Linear):
            yield self._keep(module, name + PRODUCT, _product, rows)

    def _keep(
        self, module: Any, place: str, pick: Pick, rows: Rows = "padded", heads: int = 0, dim: int = 0
    ) -> Any:
        """A hook on `module` that keeps what `pick` gives, of each call in turn, as the point `place`: one
        that begins with a dot is of the layer that runs."""

        def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            name = f"encoder.layers.{self._layer()}{place}" if place.startswith(".") else place
            if self._names is not None and name not in self._names:
                return
            value = pick(module, inputs, keywords, output)
            if value is not None:
                self._gathered.setdefault(name, _Gathered(rows, heads, dim)).pieces.append(value.detach())

        return module.register_forward_hook(hook, with_kwargs=True)

    def _angles(self, part: int) -> Pick:
        """The sines (0) or the cosines (1) of the angles by which keys are turned: 0 of a memory, and
        for all where attention is dense."""

        def pick(_module: Any, _inputs: Any, _keywords: Any, output: Any) -> torch.Tensor:
            angles = output[0].chunk(2, dim=-1)[part]
            memory, length = self.spec.num_memory_keys, self._mask.shape[1]
            still: torch.Tensor = angles.new_full(
                (self.spec.keys_in_graph(length), angles.shape[1]), float(part)
            )
            if self.spec.hashes(length):
                still[memory : memory + len(angles)] = angles
            return still

        return pick

    def _scaled_query_key(
        self, module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], _output: Any
    ) -> torch.Tensor:
        """What the package's attention compares, by its own function."""
        from reformer_pytorch.reformer_pytorch import LSHAttention, apply_rotary_pos_emb

        query_key = inputs[0]
        if keywords.get("pos_emb") is not None and isinstance(module, LSHAttention):
            query_key = apply_rotary_pos_emb(query_key, keywords["pos_emb"])
        scaled: torch.Tensor = query_key * self.spec.head_size**-0.5
        return scaled

    def _halves(self, _module: Any, _inputs: Any, _keywords: Any, output: torch.Tensor) -> torch.Tensor:
        """[B, L, halves * size] of normalised queries, which newer versions have as [B * halves, L, size]."""
        if output.shape[-1] != QUERY_SIZE:
            return output
        by_half = output.reshape(len(self._mask), -1, *output.shape[1:])
        return by_half.transpose(1, 2).flatten(2)

    def _arrange(self, found: _Gathered) -> NDArray[np.float32]:
        """float32 as the graph has it: [B, rows, size], or [rows, size] for positions."""
        value = torch.cat(found.pieces, found.dim).float().numpy()
        length, memory = self._mask.shape[1], self.spec.num_memory_keys
        padded = self.spec.keys_in_graph(length) - memory
        if found.rows == "positions":
            return _add_rows(value, 0, padded - len(value), 0)
        batch = len(self._mask)
        if found.heads:
            by_head = value.reshape(batch, found.heads, *value.shape[1:])
            value = by_head.transpose(0, 2, 1, 3).reshape(batch, value.shape[1], -1)
        if found.rows == "given":
            given: NDArray[np.float32] = value[:, :length].copy()
            if self.spec.logits == "last":
                given = last_rows(given, self._mask)
            return given
        if found.rows == "keys":
            value = np.roll(value, memory, axis=1)
            return _add_rows(value, 0, padded + memory - value.shape[1], 1)
        before = memory if found.rows == "queries" else 0
        value = _add_rows(value, before, padded - value.shape[1], 1)
        return value.reshape(batch * padded, -1, QUERY_SIZE) if found.rows == "halves" else value


def _add_rows(value: NDArray[np.float32], before: int, after: int, axis: int) -> NDArray[np.float32]:
    """`value` with zeros before and after it (none for a negative number); a copy."""
    widths = [(0, 0)] * value.ndim
    widths[axis] = before, max(after, 0)
    return np.pad(value, widths)


def _output(_module: Any, _inputs: Any, _keywords: Any, output: Any) -> torch.Tensor:
    return torch.as_tensor(output)


def _input(_module: Any, inputs: Any, _keywords: Any, _output: Any) -> torch.Tensor:
    return torch.as_tensor(inputs[0])


def _first_output(_module: Any, _inputs: Any, _keywords: Any, output: Any) -> torch.Tensor:
    return torch.as_tensor(output[0])


def _product(module: Any, inputs: Any, _keywords: Any, _output: Any) -> torch.Tensor:
    return multiply(module, inputs[0])


def _positions(_module: Any, _inputs: Any, _keywords: Any, output: Any) -> torch.Tensor | None:
    """[L, size], where the package may have a batch of equal ones; None for no positions."""
    if not isinstance(output, torch.Tensor):
        return None
    return output[0] if output.ndim == 3 else output


def _half(index: int) -> Pick:
    """One of the two streams that a block results in side by side."""
    return lambda _module, _inputs, _keywords, output: output.chunk(2, dim=-1)[index]
