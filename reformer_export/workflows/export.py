"""A checkpoint -> a verified artifact."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reformer_export.artifact.decoding import check_decodable
from reformer_export.artifact.files import require_utf8
from reformer_export.artifact.folder import check_new_folder, new_folder
from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import DEFAULT_OPSET, check_opset
from reformer_export.errors import InputError, ParityError
from reformer_export.libraries.packages import COMPARING, COMPARING_LUCIDRAINS, EXPORTING, require_packages
from reformer_export.low_precision import (
    INT4_MIN_OPSET,
    KEPT_BY_DEFAULT,
    LowPrecision,
    WeightsType,
    check_kept,
)
from reformer_export.measure.accuracy import TokenText, check_predicts_tokens, read_data
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.options import options_from_fields
from reformer_export.spec import DType, LogitsPositions, Task, TokenizerChoice
from reformer_export.workflows.checkpoint_source import source_with_path
from reformer_export.workflows.progress import Say, say_nothing

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from reformer_export.checkpoints import LoadOptions
    from reformer_export.checkpoints.checkpoint import Checkpoint
    from reformer_export.export import ExportOptions
    from reformer_export.parity.cost import CostResult
    from reformer_export.parity.decoding_results import DecodingResult
    from reformer_export.parity.results import VerifyResult
    from reformer_export.parity.session import ParitySession
    from reformer_export.workflows.fields import ExportFields


@dataclass(frozen=True)
class ExportRequest:
    """How to export a checkpoint; None keeps what the checkpoint says.

    Attributes:
        task: what the model is for; "auto" takes the checkpoint's head.
        dtype: type of the weights and of the arithmetic between the attentions' float32 sums.
        num_hashes: hash rounds; more are slower and attend better.
        max_hashes: export so many hash rounds, of which every run chooses how many it uses.
        num_buckets: factors of the number of hash buckets, each even.
        hash_seed: seed of the random rotations, for a checkpoint that has none.
        max_length: greatest sequence length, tokens.
        logits: of all positions, or of the last attended one (for generation).
        tokenizer: how text becomes ids: "auto" by the checkpoint's own tokenizer, or by bytes where it has
            none and exactly their 258 ids; "bytes" (id = byte + 2); "none" for token ids only.
        feed_forward_slices: cuts the feed-forward's inner dimension: less memory at great lengths.
        decode: add decode.onnx, which continues a sequence at the cost of its new tokens.
        weights: store the dense layers' weights in "int8", with a scale for each output, or in "int4", with a
            scale for each block of inputs; None for `dtype`. Embeddings, norms and hashing stay as they are.
        keep: projections whose weights stay in `dtype`; None for none.
        data: a UTF-8 text, on which the loss against the original model is measured.
        max_loss: most bits per character that the artifact may lose on `data`.
        opset: ONNX opset, 18 or later.
        revision: branch, tag or commit of a hub checkpoint.
        config: the keyword arguments of a model of reformer-pytorch, a JSON file; its checkpoint is one file.
        allow_pickle: read a folder's pytorch_model.bin (weights only) if there is no safetensors; a file of
            reformer-pytorch's, which is named by itself, is read weights only without it.
        verify: compare with eager on a few inputs before anything is written.
        overwrite: replace an artifact that is there, when the new one is whole.
    """

    task: Task | Literal["auto"] = "auto"
    dtype: DType = "float32"
    num_hashes: int | None = None
    max_hashes: int | None = None
    num_buckets: tuple[int, ...] | None = None
    hash_seed: int | None = None
    max_length: int | None = None
    logits: LogitsPositions = "all"
    tokenizer: TokenizerChoice = "auto"
    feed_forward_slices: int = 1
    decode: bool = False
    weights: WeightsType | None = None
    keep: tuple[str, ...] | None = None
    data: Path | None = None
    max_loss: float | None = None
    opset: int = DEFAULT_OPSET
    revision: str | None = None
    config: Path | None = None
    allow_pickle: bool = False
    verify: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_field_types(self)
        check_opset(self.opset)
        if self.max_hashes is not None and self.num_hashes is not None:
            raise InputError(
                "max_hashes",
                f"{self.max_hashes} and `num_hashes` {self.num_hashes}",
                "one of them",
                "give `max_hashes` alone to choose at run time, or `num_hashes` alone for a fixed number",
            )
        self._check_weights()

    def _check_weights(self) -> None:
        if self.weights is None and self.keep is not None:
            raise InputError("keep", "it without `weights`", "`weights` too", "add it, or leave `keep` out")
        check_kept(self.keep or ())
        if self.weights == "int4" and self.opset < INT4_MIN_OPSET:
            expected = f"an `opset` from {INT4_MIN_OPSET} on, whose operators know it"
            raise InputError("weights", f"int4 with `opset` {self.opset}", expected, "give a later `opset`")
        if self.max_loss is not None and not 0 <= self.max_loss < math.inf:
            raise InputError("max_loss", self.max_loss, "a finite number from 0 up", "choose another")
        if self.max_loss is not None and self.data is None:
            raise InputError("max_loss", "it without `data`", "a text to measure it on", "give `data`")
        if self.data is not None and not self.verify:
            expected = "`verify`, with which it is measured"
            raise InputError("data", "it with `verify=False`", expected, "leave one of them out")

    @property
    def low_precision(self) -> LowPrecision | None:
        """What `weights` and `keep` say."""
        if self.weights is None:
            return None
        return LowPrecision(self.weights, KEPT_BY_DEFAULT if self.keep is None else self.keep)

    def load_options(self) -> LoadOptions:
        """The part that reads the checkpoint."""
        from reformer_export.checkpoints import LoadOptions

        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(LoadOptions)}
        return LoadOptions(**own | {"num_hashes": self.max_hashes or self.num_hashes})

    def export_options(self) -> ExportOptions:
        """The part that writes the graph."""
        from reformer_export.export import ExportOptions

        return ExportOptions(
            self.dtype,
            self.opset,
            runtime_num_hashes=self.max_hashes is not None,
            tokenizer=self.tokenizer,
            decode=self.decode,
            low_precision=self.low_precision,
            needs_text=self.data is not None,
        )


@dataclass(frozen=True)
class ExportedArtifact:
    """What was written: the folder and its manifest, whose `parity` is the comparison with eager."""

    folder: Path
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes of the artifact's files."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    request: ExportRequest | None = None,
    *,
    say: Say = say_nothing,
    **fields: Unpack[ExportFields],
) -> ExportedArtifact:
    """Export `checkpoint` to the folder `out`, which appears when it is whole and agrees with eager.

    Args:
        checkpoint: a folder saved by transformers, or a hub id; with `config` a file of tensors that
            reformer-pytorch's model saved.
        out: the new folder.
        request: how to export it.
        say: is told what is being done, a line each.
        fields: in place of `request`, fields of it.

    Raises:
        InputError: an option is out of range, or does not fit the model.
        MissingDependencyError: torch, transformers or another package is not installed.
        CheckpointError: the checkpoint is missing, broken or not supported.
        OutputError: `out` exists, or the disk refuses; nothing was changed.
        ParityError: the artifact differs from eager; nothing was written.
        ExportError: the exporter produced a graph that does not keep the contract.
    """
    request = options_from_fields(ExportRequest, request, fields)
    out = Path(out)
    require_packages("exporting", (*EXPORTING, *(COMPARING if request.verify else ())))
    if request.verify and request.config is not None:
        require_packages("comparing with eager (or use `verify=False`)", COMPARING_LUCIDRAINS)
    require_utf8(out)
    check_new_folder(out, request.overwrite)
    data = None if request.data is None else read_data(request.data)
    say("Loading the exporter ...")
    from reformer_export.export import write_artifact

    export_options = request.export_options()
    loaded = _load(os.fspath(checkpoint), request, say)
    loaded = dataclasses.replace(loaded, source=source_with_path(loaded, out))
    if request.decode:
        check_decodable(loaded.spec)
    if data is not None:
        check_predicts_tokens(loaded.spec)
    with new_folder(out, request.overwrite) as folder:
        say("Tracing and writing the graph ...")

        def compare(manifest: Manifest) -> dict[str, Any]:
            say("Comparing with eager ...")
            parity = _compare_shortly(folder, manifest, loaded.file or loaded.folder, request, data, say)
            for note in parity["notes"]:
                say(f"Note: {note}.")
            return parity

        manifest = write_artifact(loaded, folder, export_options, compare if request.verify else None)
    if request.tokenizer == "auto":
        _note_missing_text(loaded, manifest, say)
    return ExportedArtifact(out, manifest)


def _load(checkpoint: str, request: ExportRequest, say: Say) -> Checkpoint:
    from reformer_export.checkpoints import load_huggingface, load_lucidrains

    options = request.load_options()
    say(f"Reading {checkpoint} ...")
    if request.config is None:
        return load_huggingface(checkpoint, options)
    return load_lucidrains(checkpoint, request.config, options)


def _note_missing_text(loaded: Checkpoint, manifest: Manifest, say: Say) -> None:
    """Tell why the artifact takes no text, although its checkpoint has a tokenizer."""
    from reformer_export.checkpoints.tokenizer import has_tokenizer

    text = manifest.tokenizer
    if text is not None and text.kind == "none" and loaded.file is None and has_tokenizer(loaded.folder):
        say(f"Note: it takes token ids only, no text: {text.detail}.")


def _compare_shortly(
    folder: Path, manifest: Manifest, checkpoint: Path, request: ExportRequest, data: str | None, say: Say
) -> dict[str, Any]:
    """The summary of the comparison over a few inputs, and of that of decode.onnx, and what the artifact
    loses on the text `data`; ParityError when one fails, or more is lost than may be."""
    from reformer_export.parity.cases import add_num_hashes_cases, default_cases
    from reformer_export.parity.cost import encode_text
    from reformer_export.parity.decoding import check_decoding
    from reformer_export.parity.decoding_cases import choose_decoding_cases
    from reformer_export.parity.session import open_session
    from reformer_export.parity.sweep import sweep

    cases = add_num_hashes_cases(manifest, default_cases(manifest.spec, short=True))
    with open_session(folder, checkpoint, manifest=manifest) as session:
        text = None if data is None else encode_text(session.runtime, data)
        result = sweep(session, cases)
        _require_parity(result)
        found = result.summary()
        if manifest.decode is not None:
            decoding = check_decoding(session, choose_decoding_cases(manifest, short=True))
            _require_parity(decoding)
            found["decoding"] = decoding.summary()
        if text is not None and request.data is not None:
            say(f"Measuring the loss on {request.data.name} ...")
            found["cost"] = _measure_loss(session, request.data.name, request.max_loss, text).to_record()
    return found


def _measure_loss(session: ParitySession, name: str, max_loss: float | None, text: TokenText) -> CostResult:
    """On `text`, which is called `name`; ParityError when more is lost than `max_loss`."""
    from reformer_export.parity.cost import measure_cost

    cost = measure_cost([session], text, name)
    (artifact,) = cost.artifacts
    loss = cost.loss(artifact)
    assert loss is not None
    if max_loss is not None and not loss <= max_loss:  # nor where it is a NaN
        raise ParityError(
            f"loss on {name}",
            f"{loss:.4f} bits per character ({artifact.bits_per_character:.4f}, the original "
            f"{cost.bits_per_character:.4f})",
            f"at most {max_loss:g}",
            "nothing was written: name projections in `keep`, or allow more",
        )
    return cost


def _require_parity(result: VerifyResult | DecodingResult) -> None:
    if not result.passed:
        raise ParityError(
            f"parity with eager: {result.verdict()}",
            fix="nothing was written, use `verify=False` to write it nevertheless and `reformer-export "
            "verify` to see every case",
        )
