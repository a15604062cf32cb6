"""What comparing decode.onnx found, and its verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from reformer_export.parity.compare import GivenTolerance, LayerAgreement, Precision, tolerance
from reformer_export.parity.decoding_cases import DecodingCase

Check = Literal["prompt", "operator", "batch", "around"]

CHECKS: Final[dict[Check, str]] = {
    "prompt": "prompts, by model.onnx",
    "operator": "operators of steps, by whole ones",
    "batch": "rows of a batch, by each alone",
    "around": "rest of the steps, by model.onnx",
}
"""What is judged by what, in words."""

COUNTED: Final[dict[Check, str]] = {
    "prompt": "prompts",
    "operator": "operators of steps",
    "batch": "rows of batches",
    "around": "rests of steps",
}
"""The same where they are counted."""

BATCH_SHARE: Final = 0.4
"""Of the dtype's tolerance, for a row of a batch against the row alone: 2e-5 in float32."""


def limit_error(check: Check, precision: Precision, given: GivenTolerance | None, greatest: float) -> float:
    """The allowed error of values of at most `greatest` magnitude; `given`: in the tolerance's place."""
    if given is not None:
        return given.limit(greatest)
    return tolerance(precision, greatest) * (BATCH_SHARE if check == "batch" else 1)


@dataclass(frozen=True)
class Finding:
    """One comparison: a row of `case` when it had `length` tokens.

    `error` is the largest difference (where an element's own limit counts, that of the element nearest to
    it), `tolerance` its limit. `layer` and `what`: of which operator or cache; None and "" for logits.
    `agreements`: of the row's buckets, where they were compared too; a flip needs an explanation.
    """

    check: Check
    case: DecodingCase
    row: int
    length: int
    error: float
    tolerance: float
    layer: int | None = None
    what: str = ""
    agreements: tuple[LayerAgreement, ...] = ()

    @property
    def passed(self) -> bool:
        """Within its tolerance, every flip explained."""
        return self.error <= self.tolerance and self.unexplained == 0

    @property
    def unexplained(self) -> int:
        """Flips without an explanation."""
        return sum(agreement.unexplained for agreement in self.agreements)

    @property
    def share(self) -> float:
        """The error as a share of its tolerance."""
        if self.tolerance == 0:
            return 0.0 if self.error == 0 else float("inf")
        return self.error / self.tolerance

    @property
    def where(self) -> str:
        """What was compared, of which layer, at how many tokens."""
        what = f"{self.what}, layer {self.layer}" if self.what else "logits"
        return f"{what}, {self.length} tokens"

    def describe(self) -> str:
        """One line: which layer, at how many tokens, by how much."""
        row = f"row {self.row} of {self.case}"
        flipped = next((each for each in self.agreements if each.unexplained), None)
        if flipped is None or self.error > self.tolerance:
            return f"{self.where} ({row}): error {self.error:.1e}, tolerance {self.tolerance:.1e}"
        return (
            f"buckets of layer {flipped.layer} in {self.length} tokens ({row}): "
            f"{flipped.unexplained} unexplained flips (margins up to {flipped.worst_margin:.1e}), tolerance 0"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the case as the number of rows and words."""
        values = {
            name: getattr(self, name)
            for name in ("check", "row", "length", "layer", "what", "error", "tolerance", "passed")
        }
        agreements = [dataclasses.asdict(each) for each in self.agreements if each.flips]
        return values | {"case": str(self.case), "flips": agreements}


@dataclass(frozen=True)
class DecodingResult:
    """All comparisons of an artifact's decode.onnx on one runtime, judged by `precision`."""

    runtime: str
    precision: Precision
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every comparison holds."""
        return not self.failed

    @property
    def failed(self) -> tuple[Finding, ...]:
        """Those that do not."""
        return tuple(finding for finding in self.findings if not finding.passed)

    @property
    def flips(self) -> int:
        """Hashes that fell otherwise, over all comparisons."""
        return sum(each.flips for finding in self.findings for each in finding.agreements)

    @property
    def hashed(self) -> int:
        """Hashes that were compared."""
        return sum(each.hashed for finding in self.findings for each in finding.agreements)

    def of(self, check: Check) -> list[Finding]:
        """The comparisons of one kind."""
        return [finding for finding in self.findings if finding.check == check]

    def worst(self, check: Check) -> Finding:
        """Of one kind, the nearest to, or farthest beyond, failing."""
        return max(self.of(check), key=lambda finding: (not finding.passed, finding.share))

    @property
    def checks(self) -> list[Check]:
        """The kinds that there are."""
        return [check for check in CHECKS if self.of(check)]

    def summary(self) -> dict[str, Any]:
        """A few JSON values: for each kind how many comparisons, and the one nearest to failing."""
        kinds: dict[str, Any] = {
            check: {
                "compared": len(self.of(check)),
                "failed": sum(not finding.passed for finding in self.of(check)),
                "worst_error": self.worst(check).error,
                "tolerance": self.worst(check).tolerance,
            }
            for check in self.checks
        }
        return {
            "runtime": self.runtime,
            "precision": self.precision,
            "passed": self.passed,
            "hashed": self.hashed,
            "flips": self.flips,
            **kinds,
        }

    def to_dict(self) -> dict[str, Any]:
        """The summary and every comparison, in JSON values."""
        return {**self.summary(), "findings": [finding.to_dict() for finding in self.findings]}

    def verdict(self) -> str:
        """One line: passed or failed and why, and how near each kind came to failing."""
        if not self.passed:
            first = self.first_failure()
            return (
                f"FAILED: {len(self.failed)} of {len(self.findings)} comparisons of decode.onnx; "
                f"{CHECKS[first.check]}: {first.describe()}"
            )
        counts = ", ".join(f"{len(self.of(check))} {COUNTED[check]}" for check in self.checks)
        worst = max(self.findings, key=lambda finding: finding.share)
        return (
            f"Passed: decode.onnx, {counts}; worst: {worst.where} (error {worst.error:.1e}, tolerance "
            f"{worst.tolerance:.1e}); {self.flips} of {self.hashed} hashes flipped"
        )

    def first_failure(self) -> Finding:
        """The one that is told: of a wrong operator its consequences fail too, so operators come first."""
        order: Sequence[Check] = ("operator", "prompt", "around", "batch")
        return min(self.failed, key=lambda finding: order.index(finding.check))
