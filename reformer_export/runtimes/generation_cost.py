"""What generating took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class GenerationCost:
    """What generating took so far, the choice of tokens included.

    Attributes:
        prompt_tokens: of the prompts that were read, and `prompt_seconds`, which that took and the first
            token after each.
        step_tokens: tokens after those first ones, and `step_seconds` for them, refreshes included.
        cache_bytes: of caches, the most at a time.
    """

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    step_tokens: int = 0
    step_seconds: float = 0.0
    cache_bytes: int = 0

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """None before the first prompt was read."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else None

    @property
    def step_tokens_per_second(self) -> float | None:
        """None before the first step."""
        return self.step_tokens / self.step_seconds if self.step_seconds else None

    def add_prompt(self, tokens: int, seconds: float) -> None:
        self.prompt_tokens += tokens
        self.prompt_seconds += seconds

    def add_steps(self, tokens: int, seconds: float) -> None:
        self.step_tokens += tokens
        self.step_seconds += seconds
