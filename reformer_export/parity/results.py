"""What a sweep found, and its verdict."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import GivenTolerance, LayerAgreement, Precision, describe_rule
from reformer_export.spec import DType

UNREAD_BUCKETS: Final = (
    "; the engine hashes for itself where nobody can look: pinned errors and flips are ONNX Runtime's on the "
    "same model.onnx, and the engine's own outputs agree at the median token at least"
)

GIVEN_TOLERANCE: Final = "; the tolerance is the given one, {}, in place of the dtype's"

OTHER_HASH: Final = (
    "fell into another bucket than their vectors give with the recorded seed and bucket counts: the file has "
    "others, or hashes otherwise"
)

OTHER_INPUT: Final = (
    "flipped because their vectors differ by more than rounding, although the outputs agree: the arithmetic "
    "before the hash is wrong, in a part that weighs little"
)

OTHER_CHOICE: Final = (
    "memories were chosen though others fit their queries better by the checkpoint's keys: the file has "
    "other keys, or chooses otherwise"
)

TF32_ASKED_FOR: Final = "; products round to TF32, as was asked for, and are judged so"


ROUNDS_TO_INT8: Final = (
    "; eager has the file's int8 weights, and both round eager's values to int8, with each of which the "
    "file's own is compared; free errors, where some round otherwise, are not judged"
)

EAGER_NOISE: Final = (
    "; eager itself moves by {:.1e} when its weights change in the last place, which the tolerance allows for"
)


@dataclass(frozen=True)
class CaseResult:
    """The three numbers of a case, and their verdict.

    `pinned_error`: largest output difference with eager's buckets; `tolerance`: its limit; `layers`: bucket
    agreement; `free_error`: largest output difference when the graph uses its own buckets; `free_median`: the
    same at the median token. `reads_buckets` is False where the runtime's own buckets cannot be read, as in
    an engine: pinned errors and flips are then those of ONNX Runtime on the same file. `eager_noise`: how far
    eager's own outputs move when each weight changes in its last place, measured where the dtype's tolerance
    did not hold, which is then at least `NOISE_UNITS` times that; None elsewhere. `rounds`: the graph rounds
    to int8; `pinned_error` is then with eager's values in all these places, and as large a share of its
    tolerance as the error of any of them is of its own.
    """

    case: Case
    pinned_error: float
    tolerance: float
    layers: tuple[LayerAgreement, ...]
    free_error: float
    free_median: float = 0.0
    reads_buckets: bool = True
    eager_noise: float | None = None
    rounds: bool = False

    @property
    def flips(self) -> int:
        return sum(layer.flips for layer in self.layers)

    @property
    def hashed(self) -> int:
        return sum(layer.hashed for layer in self.layers)

    @property
    def unexplained(self) -> int:
        return sum(layer.unexplained for layer in self.layers)

    @property
    def misplaced(self) -> int:
        return sum(layer.misplaced for layer in self.layers)

    @property
    def misplaced_memories(self) -> int:
        """Those of `misplaced` that are choices of product-key memories."""
        return sum(layer.misplaced for layer in self.layers if layer.kind == "memories")

    @property
    def share(self) -> float:
        """The pinned error as a share of its tolerance: above 1 it fails."""
        return self.pinned_error / self.tolerance

    @property
    def passed(self) -> bool:
        """The arithmetic agrees, every flip is explained, and the free run agrees as far as it can."""
        return self.arithmetic_agrees and self.unexplained == 0 and self.free_agrees

    @property
    def arithmetic_agrees(self) -> bool:
        return self.pinned_error <= self.tolerance

    @property
    def free_agrees(self) -> bool:
        """Whether the free run is within the tolerance, or a flip excuses it.

        A flip moves some tokens' chunk borders and a wrong model is wrong nearly everywhere: where the
        runtime's flips cannot be counted, the median token has to agree wherever anything was hashed. Where
        values are rounded to int8 some fall otherwise, anywhere: nothing is asked.
        """
        if self.rounds or self.free_error <= self.tolerance:
            return True
        if self.reads_buckets:
            return self.flips > 0
        return self.hashed > 0 and self.free_median <= self.tolerance


@dataclass(frozen=True)
class VerifyResult:
    """A whole sweep on one runtime of an artifact in `dtype`, judged by `precision`; `notes` say what to know
    of eager, a sentence each. `given_tolerance`: what the user allows in place of the precision's; the flips
    are judged by the precision nevertheless."""

    runtime: str
    dtype: DType
    cases: tuple[CaseResult, ...]
    precision: Precision
    notes: tuple[str, ...] = ()
    given_tolerance: GivenTolerance | None = None

    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases)

    @property
    def worst(self) -> CaseResult:
        """The case nearest to, or farthest beyond, failing."""
        return max(self.cases, key=lambda c: (not c.arithmetic_agrees, c.unexplained > 0, c.share))

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The cases that did not pass."""
        return tuple(case for case in self.cases if not case.passed)

    @property
    def flip_rate(self) -> float:
        """The share of hashes that differ from eager's, 0 to 1; 0 when nothing was hashed."""
        return sum(case.flips for case in self.cases) / max(sum(case.hashed for case in self.cases), 1)

    @property
    def eager_noise(self) -> float | None:
        """The largest among the cases where it was measured; None when it was for none."""
        return max((case.eager_noise for case in self.cases if case.eager_noise is not None), default=None)

    @property
    def counted(self) -> str:
        """What flips."""
        has_memories = any(layer.kind == "memories" for case in self.cases for layer in case.layers)
        return "hashes and choices of memories" if has_memories else "hashes"

    def summary(self) -> dict[str, Any]:
        """The sweep in a few JSON values; `eager_noise` only where it was measured, `given_tolerance` only
        where there is one."""
        noise = {} if self.eager_noise is None else {"eager_noise": self.eager_noise}
        allowed = self.given_tolerance
        given = {} if allowed is None else {"given_tolerance": dataclasses.asdict(allowed)}
        return {
            "runtime": self.runtime,
            "dtype": self.dtype,
            "precision": self.precision,
            "passed": self.passed,
            "num_cases": len(self.cases),
            "worst": str(self.worst.case),
            "max_pinned_error": max(case.pinned_error for case in self.cases),
            "max_free_error": max(case.free_error for case in self.cases),
            "hashed": sum(case.hashed for case in self.cases),
            "flips": sum(case.flips for case in self.cases),
            "flip_rate": self.flip_rate,
            "unexplained_flips": sum(case.unexplained for case in self.cases),
            **noise,
            **given,
            "notes": list(self.notes),
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary and every case, in JSON values."""
        cases = [
            dataclasses.asdict(result)
            | {"case": result.case.to_dict(), "flips": result.flips, "passed": result.passed}
            for result in self.cases
        ]
        return {**self.summary(), "cases": cases}

    def rule(self) -> str:
        """What errors and flips were judged by, a sentence."""
        noise = "; where eager itself is noisier, twice its noise" if self.eager_noise is not None else ""
        rounds = ROUNDS_TO_INT8 if any(case.rounds for case in self.cases) else ""
        return describe_rule(self.precision, self.given_tolerance) + noise + rounds

    def explain_failure(self) -> str:
        """Why it failed, in words: the first cause, and what only follows from it. "" where it passed."""
        if self.passed:
            return ""
        unexplained, misplaced, memories = (
            sum(getattr(case, name) for case in self.cases)
            for name in ("unexplained", "misplaced", "misplaced_memories")
        )
        wrong = not all(case.arithmetic_agrees for case in self.cases)
        if misplaced:
            also = "; the arithmetic differs by more than rounding too" if wrong else ""
            if misplaced == memories:
                return f"{memories} {OTHER_CHOICE}{also}"
            return f"{misplaced - memories} hashes {OTHER_HASH}{also}"
        if wrong:
            follow = f", and {unexplained} {self.counted} flipped as its consequence" if unexplained else ""
            return f"the arithmetic differs by more than rounding{follow}"
        if unexplained:
            return f"{unexplained} {self.counted} {OTHER_INPUT}"
        return "with buckets of its own the runtime gives other outputs, though no hash flipped"

    def verdict(self) -> str:
        """One line: passed or failed and why, the worst case, and how often hashes flipped."""
        worst, summary = self.worst, self.summary()
        begin = f"Passed: {len(self.cases)} cases"
        if not self.passed:
            begin = f"FAILED: {len(self.failed)} of {len(self.cases)} cases; {self.explain_failure()}"
        return (
            f"{begin}; worst: {worst.case} "
            f"(pinned error {worst.pinned_error:.1e}, tolerance {worst.tolerance:.1e}, "
            f"{worst.unexplained} unexplained flips); {summary['flips']} of {summary['hashed']} "
            f"{self.counted} flipped ({self.flip_rate:.3%})"
            + ("" if self.given_tolerance is None else GIVEN_TOLERANCE.format(self.given_tolerance))
            + (TF32_ASKED_FOR if self.precision == "tf32" else "")
            + ("" if all(case.reads_buckets for case in self.cases) else UNREAD_BUCKETS)
            + ("" if self.eager_noise is None else EAGER_NOISE.format(self.eager_noise))
        )
