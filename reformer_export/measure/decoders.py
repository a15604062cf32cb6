"""Who continues sequences token by token: the artifact and eager, on a cache or with a pass for each."""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from reformer_export.measure.contenders import Setup, load_eager, set_up_torch
from reformer_export.runtimes import Runtime, load

if TYPE_CHECKING:
    from typing_extensions import Self

DecodeName = Literal["artifact", "artifact-passes", "eager-passes", "eager-cache"]
ARTIFACTS: Final[tuple[DecodeName, ...]] = ("artifact", "artifact-passes")
EAGERS: Final[tuple[DecodeName, ...]] = ("eager-passes", "eager-cache")

STEPS_OF_A_TURN: Final = 8
"""Tokens that a cache is timed for before the next contender has its turn."""


@dataclass(frozen=True)
class DecodeSetup:
    """All that opens a contender, in this process or in one of its own."""

    name: DecodeName
    setup: Setup


class Continuation(ABC):
    """Sequences of one length that grow together, a token each at every step.

    `steps_of_a_turn`: how many steps it is timed for at once.
    """

    steps_of_a_turn = 1

    @abstractmethod
    def start(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read prompts int64 [B, L], in place of what was there; logits [B, vocab_size] of the last token."""

    @abstractmethod
    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append a token to each sequence, int64 [B]; its logits [B, vocab_size]."""

    @property
    def cache_bytes(self) -> int:
        """What the tokens so far left for the next ones; 0 where every pass begins anew."""
        return 0

    def close(self) -> None:  # noqa: B027
        """Give back what the sequences hold; nothing where that is nothing."""


class ArtifactSteps(Continuation):
    """The artifact's decode.onnx."""

    steps_of_a_turn = STEPS_OF_A_TURN

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._block = ExitStack()
        runtime.start_decoding().close()  # its graph is loaded when it is first asked for

    def start(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.close()
        self._state = self._block.enter_context(self._runtime.start_decoding())
        self._keys = [self._state.add(row) for row in ids]
        return self._logits()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self._state.step(dict(zip(self._keys, tokens.tolist(), strict=True)))
        return self._logits()

    @property
    def cache_bytes(self) -> int:
        return self._state.nbytes

    def close(self) -> None:
        self._block.close()

    def _logits(self) -> NDArray[np.float32]:
        return np.stack([self._state.logits(key) for key in self._keys])


class ArtifactPasses(Continuation):
    """The artifact's model.onnx over the whole sequence for every token."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def start(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self._ids = ids
        logits: NDArray[np.float32] = self._runtime.run(ids)["logits"][:, -1]
        return logits

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.start(np.concatenate([self._ids, tokens[:, None]], axis=1))


class EagerPasses(Continuation):
    """transformers without its cache, and, where it can, with the last token's logits only."""

    def __init__(self, model: Any, setup: Setup) -> None:
        self._model = model
        self._device = setup.device
        self._options: dict[str, Any] = {"num_hashes": setup.options.num_hashes}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:  # as its generate() does
            self._options["logits_to_keep"] = 1

    def start(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self._ids = ids
        return self._last_logits(self._run(ids, use_cache=False))

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.start(np.concatenate([self._ids, tokens[:, None]], axis=1))

    def _run(self, ids: NDArray[np.int64], **options: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(
                torch.from_numpy(ids).to(self._device), return_dict=True, **options, **self._options
            )

    def _last_logits(self, outputs: Any) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = outputs.logits[:, -1].float().cpu().numpy()
        return logits


class LucidrainsPasses(EagerPasses):
    """reformer-pytorch, which has no cache."""

    def __init__(self, model: Any, setup: Setup) -> None:
        self._model = model
        self._device = setup.device

    def _run(self, ids: NDArray[np.int64], **_options: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(torch.from_numpy(ids).to(self._device))

    def _last_logits(self, outputs: Any) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = outputs[:, -1].float().cpu().numpy()
        return logits


class EagerCache(EagerPasses):
    """transformers with its own cache, as its generate() uses it."""

    steps_of_a_turn = STEPS_OF_A_TURN
    _past: Any = None

    def start(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self._past = None
        return self._continue(ids)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._continue(tokens[:, None])

    def _continue(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        outputs = self._run(ids, use_cache=True, past_buckets_states=self._past)
        self._past = outputs.past_buckets_states
        return self._last_logits(outputs)

    @property
    def cache_bytes(self) -> int:
        if self._past is None:
            return 0
        tensors = (*self._past.states_cache, *self._past.buckets_cache)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def close(self) -> None:
        self._past = None


class Continuations(dict[DecodeName, Continuation]):
    """Open contenders by name; leaving the block closes them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for each in self.values():
            each.close()


def open_continuations(setups: Sequence[DecodeSetup]) -> Continuations:
    """Load the models, each once."""
    found = Continuations()
    runtime = model = None
    for each in setups:
        if each.name in ARTIFACTS:
            steps = each.name == "artifact"
            if runtime is None:  # whoever is alone shall hold its own graph's weights only
                options = dataclasses.replace(each.setup.options, open_for="generate" if steps else "run")
                runtime = load(each.setup.out, options)
            found[each.name] = ArtifactSteps(runtime) if steps else ArtifactPasses(runtime)
            continue
        if model is None:
            set_up_torch(each.setup)
            model = load_eager(each.setup)
        passes = EagerPasses if hasattr(model, "config") else LucidrainsPasses
        eager = EagerCache if each.name == "eager-cache" else passes
        found[each.name] = eager(model, each.setup)
    return found
