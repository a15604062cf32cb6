"""What a comparison with eager found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reformer_export.artifact.manifest import MODEL_NAME, Manifest

if TYPE_CHECKING:
    from reformer_export.measure.accuracy import AccuracyResult
    from reformer_export.measure.drift_result import DriftResult
    from reformer_export.parity.bisect import BisectResult
    from reformer_export.parity.constants import ConstantsResult
    from reformer_export.parity.cost import CostResult
    from reformer_export.parity.decoding_results import DecodingResult
    from reformer_export.parity.details import Details
    from reformer_export.parity.results import VerifyResult


@dataclass(frozen=True)
class DataAccuracy:
    """Accuracy and speed on the text in the file `name`, by number of hashes; `max_hashes` of a model whose
    runs choose them, else None."""

    name: str
    max_hashes: int | None
    accuracy: AccuracyResult

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"data": self.name, "max_hashes": self.max_hashes, **self.accuracy.to_dict()}


@dataclass(frozen=True)
class RuntimeReport:
    """What one runtime gave: the sweep, accuracy on a text if one was given, where the runtime decodes by
    decode.onnx its comparison and its drift from whole passes, and of an artifact of low precision its
    cost."""

    sweep: VerifyResult
    accuracy: DataAccuracy | None
    decoding: DecodingResult | None = None
    drift: DriftResult | None = None
    cost: CostResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = self.sweep.to_dict() | ({} if self.accuracy is None else {"dial": self.accuracy.to_dict()})
        if self.decoding is not None:
            drift = {} if self.drift is None else {"drift": self.drift.to_dict()}
            values["decoding"] = self.decoding.to_dict() | drift
        return values if self.cost is None else values | {"cost": self.cost.to_dict()}


@dataclass(frozen=True)
class BisectReport:
    """What a search for the first wrong node found; where one was, `folder` holds it, and `replay` is the
    command that runs it again."""

    result: BisectResult
    folder: Path
    replay: str | None

    def lines(self) -> tuple[str, ...]:
        """The finding for people."""
        verdict = f"{self.result.verdict()}."
        if self.replay is None:
            return (verdict,)
        inputs = f"Its inputs, eager's result and the file's are in {self.folder}; run it again with:"
        return verdict, inputs, f"  {self.replay}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return self.result.to_dict() | ({} if self.replay is None else {"replay": self.replay})


@dataclass(frozen=True)
class VerifyReport:
    """All that was found of the artifact in `folder`, a `RuntimeReport` for each runtime; `constants` of a
    model from a checkpoint: what its files store."""

    folder: Path
    manifest: Manifest
    runtimes: tuple[RuntimeReport, ...]
    details: Details | None = None
    bisect: BisectReport | None = None
    constants: ConstantsResult | None = None

    @property
    def failed(self) -> list[VerifyResult]:
        """The sweeps that did not pass."""
        return [runtime.sweep for runtime in self.runtimes if not runtime.sweep.passed]

    @property
    def failed_decoding(self) -> list[DecodingResult]:
        """The comparisons of decode.onnx that did not pass."""
        found = (runtime.decoding for runtime in self.runtimes)
        return [decoding for decoding in found if decoding is not None and not decoding.passed]

    @property
    def has_wrong_constants(self) -> bool:
        """Whether a file stores what the checkpoint does not give."""
        return self.constants is not None and not self.constants.passed

    @property
    def names_node(self) -> bool:
        """Whether a node was found that differs from eager."""
        return self.bisect is not None and self.bisect.result.named is not None

    @property
    def passed(self) -> bool:
        """Whether every case of every runtime agrees, and every node that was looked at, and decode.onnx, and
        what the files store."""
        return not (self.failed or self.names_node or self.failed_decoding or self.has_wrong_constants)

    def failures(self) -> list[str]:
        """What did not hold: a line for wrong constants, which may be the cause of all else; one for each
        runtime, or the wrong node where one was named, since all that differs after it may be its
        consequence; and one for a decode.onnx that fails."""
        decoding = [result.verdict() for result in self.failed_decoding]
        stored = [self.constants.verdict()] if self.constants and self.has_wrong_constants else []
        if self.bisect is None or self.bisect.result.named is None:
            return [*stored, *(sweep.verdict() for sweep in self.failed), *decoding]
        fails = (f"{len(sweep.failed)} of {len(sweep.cases)} cases fail" for sweep in self.failed)
        rest = ", ".join(fails) or "every output agrees all the same"
        return [*stored, f"FAILED: {self.bisect.result.named.describe()}; {rest}", *decoding]

    def verdict(self) -> str:
        """A line for each runtime, and one for its decode.onnx, and one for what the files store."""
        found = [each for runtime in self.runtimes for each in (runtime.sweep, runtime.decoding)]
        return "\n".join(each.verdict() for each in (*found, self.constants) if each is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; of several runtimes, each under "runtimes"."""
        values: dict[str, Any] = {
            "artifact": str(self.folder),
            "model_sha256": self.manifest.files[MODEL_NAME],  # which the file was compared with
        }
        runs = [runtime.to_dict() for runtime in self.runtimes]
        values |= runs[0] if len(runs) == 1 else {"runtimes": runs}
        if self.constants is not None:
            values["constants"] = self.constants.to_dict()
        if self.details is not None:
            values |= {"details": self.details.to_dict(), "manifest": self.manifest.to_dict()}
        return values if self.bisect is None else values | {"bisect": self.bisect.to_dict()}
