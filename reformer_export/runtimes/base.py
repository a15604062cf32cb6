"""What every runtime offers: an artifact that is open and ready to run."""

from __future__ import annotations

import functools
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, overload

from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.engine_record import EngineRecord
from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import Manifest, check_files, read_manifest
from reformer_export.errors import InputError, ReformerExportError, one_line_repr
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.phases import log_phase
from reformer_export.runtimes.forks import Forkable, refuse_after_fork
from reformer_export.runtimes.generation import (
    Generation,
    GenerationOptions,
    Prompt,
    check_writes,
    ids_from_prompt,
    row_of_ids,
)
from reformer_export.runtimes.generation_batch import BATCH_SIZE, GenerationBatch
from reformer_export.runtimes.inputs import IdsLike, InputsLike, VectorsLike
from reformer_export.runtimes.named_inputs import choose_inputs
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.options import Device, RuntimeOptions, options_from_fields
from reformer_export.runtimes.source_config import read_source_config
from reformer_export.runtimes.tokenizer import Tokenizer, load_tokenizer
from reformer_export.runtimes.where import Where
from reformer_export.spec import DType, ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from reformer_export.runtimes.decoding import DecodingState
    from reformer_export.runtimes.device_arrays import DeviceArray
    from reformer_export.runtimes.generation import GenerationFields


class Runtime(Forkable):
    """An artifact whose files were checked; one small subclass a runtime runs it.

    Attributes:
        folder: the artifact's.
        manifest: what the artifact says of itself.
        config: padding and end tokens and labels, from the checkpoint's config files.
        num_hashes: rounds of hashing of a run that names no other; None where the artifact leaves no choice.
    """

    _checked_beside: ClassVar[frozenset[str]] = frozenset()
    """Files that the subclass compares with their SHA-256 while it opens them, before anything runs."""

    def __init__(
        self, path: str | os.PathLike[str], options: RuntimeOptions, manifest: Manifest | None = None
    ) -> None:
        """Compare each file in the folder or hub repository `path` with its SHA-256 in `manifest`, else in
        the folder's own; but those that are `_checked_beside`. A subclass that is open lets `watch_forks`
        know."""
        try:
            self.folder = locate_artifact(path, with_engines=options.is_engine)
        except TypeError as error:
            got, fix = one_line_repr(path), "give its path, as text or a Path"
            raise InputError("path", got, "an artifact's folder", fix) from error
        self.manifest = manifest or read_manifest(self.folder)
        self.num_hashes = choose_num_hashes(self.manifest, options.num_hashes)
        if options.check:
            with log_phase("comparing the artifact's files with their SHA-256"):
                check_files(self.folder, self.manifest, but=self._checked_beside)
        self.config = read_source_config(self.folder, self.spec.vocab_size)
        self._notes: list[str] = []
        self._is_abandoned = False

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.manifest.spec

    @property
    def max_length(self) -> int:
        """The greatest sequence length, in tokens: the model's, or that of an engine's profiles."""
        return self.spec.max_length

    @property
    def max_decoding_length(self) -> int:
        """The longest sequence that `start_decoding` takes, in tokens; InputError where it takes none."""
        return self.max_length

    @property
    def notes(self) -> list[str]:
        """What a user should know of how this artifact was opened, a sentence each."""
        return list(self._notes)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back; an error says what the artifact, or this Python, lacks for it."""
        return load_tokenizer(self.folder, self.spec.vocab_size, self.manifest.tokenizer)

    @property
    def record(self) -> EngineRecord | None:
        """The engine that runs; None where model.onnx does."""
        return None

    @property
    def description(self) -> str:
        """What executes the graph, in a few words for people."""
        return self.providers[0]

    @property
    @abstractmethod
    def providers(self) -> tuple[str, ...]:
        """What executes the graph, preferred first, in the runtime's own words."""

    @property
    @abstractmethod
    def native(self) -> NativeLibrary | None:
        """The operator library whose kernels run the custom nodes; None where none does."""

    @overload
    def run(
        self,
        input_ids: InputsLike | Mapping[str, Any] | None = None,
        attention_mask: IdsLike | None = None,
        num_hashes: int | None = None,
        *,
        inputs_embeds: VectorsLike | None = None,
        device: Literal["cpu"] = "cpu",
        dtype: DType = "float32",
    ) -> dict[str, NDArray[Any]]: ...

    @overload
    def run(
        self,
        input_ids: InputsLike | Mapping[str, Any] | None = None,
        attention_mask: IdsLike | None = None,
        num_hashes: int | None = None,
        *,
        inputs_embeds: VectorsLike | None = None,
        device: Literal["cuda"],
        dtype: DType = "float32",
    ) -> dict[str, DeviceArray]: ...

    def run(
        self,
        input_ids: InputsLike | Mapping[str, Any] | None = None,
        attention_mask: IdsLike | None = None,
        num_hashes: int | None = None,
        *,
        inputs_embeds: VectorsLike | None = None,
        device: Device = "cpu",
        dtype: DType = "float32",
    ) -> dict[str, Any]:
        """One forward pass.

        Args:
            input_ids: token ids, integers [batch, sequence], or rows of unequal length, which are padded on
                the right and masked. Padding a row changes a Reformer's answer slightly: its last chunks
                attend around the end. For a model on CUDA, also int64 or int32 on the GPU (DLPack or
                `__cuda_array_interface__`, such as torch's), read where it lies and not checked. Or a mapping
                of all inputs by the names that the manifest lists (`manifest.inputs`): the only way to run a
                custom module, whose inputs are whole arrays of those shapes and types.
            attention_mask: 1 for a token, 0 for padding, as the ids and where they lie; None for all ones.
            num_hashes: rounds of hashing, from 1 to the manifest's `runtime_num_hashes.max_hashes`: fewer
                are faster and attend worse. None for those the artifact was opened with. Only artifacts
                exported with --max-hashes take it.
            inputs_embeds: for a model that takes vectors (`spec.takes_vectors`), in place of ids or as the
                first argument: finite floats [batch, sequence, hidden_size], or such rows; on the GPU float32
                or float16.
            device: where the outputs shall be: "cpu" for numpy arrays; "cuda", for a model on CUDA, for
                arrays that stay on the GPU (`torch.from_dlpack` and the like read them there).
            dtype: of the outputs: "float32", or the artifact's own, which saves a conversion. numpy has no
                bfloat16.

        Returns:
            The outputs by the names that the manifest lists (`manifest.outputs`): floats in `dtype`, others
            as they are. A later run does not change them.
        """
        if self._is_abandoned:
            raise refuse_after_fork(self.folder)
        given = choose_inputs(self.manifest, input_ids, attention_mask, inputs_embeds)
        return self._run(given, num_hashes, Where(device, dtype))

    def __repr__(self) -> str:
        return f"<{self.folder}: {self.spec.task}, {self.description}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise InputError(
            self.folder,
            "a copy or pickle of an open model",
            f"`load({str(self.folder)!r})` where it is needed: threads and GPU memory cannot be copied",
            "send the folder's path",
        )

    @abstractmethod
    def _run(self, given: Mapping[str, Any], num_hashes: int | None, where: Where) -> dict[str, Any]:
        """`run` of what was given by the names of the graph's inputs."""

    @abstractmethod
    def close(self) -> None:
        """Release what the runtime holds. Running afterwards is an error; closing again is not."""

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, by the checkpoint's own tokenizer; InputError where there is none."""
        if not isinstance(text, str):
            raise InputError("text", type(text).__name__, "text", "give a str; token ids need no encoding")
        return self.tokenizer.encode(text)

    def decode(self, ids: Prompt) -> str:
        """The text of a row of token ids, in any form that `generate` takes; ids without a text are left out.

        InputError where the model has no tokenizer, or an id is none of its vocabulary.
        """
        row = row_of_ids("ids", ids, "give token ids such as [5, 6, 7]")
        tokenizer = self.tokenizer
        outside = next((each for each in row if not 0 <= each < self.spec.vocab_size), None)
        if outside is not None:
            raise InputError("ids", outside, f"ids from 0 to {self.spec.vocab_size - 1}", "mend the ids")
        return tokenizer.decode(row)

    def generate(self, prompt: Prompt, **options: Unpack[GenerationFields]) -> Generation:
        """Continue `prompt`: text, or token ids in a list or a one-dimensional array of numpy's or another
        library's; `options` are the fields of `GenerationOptions`.

        for piece in model.generate("In the beginning", max_new_tokens=100).pieces():
            print(piece, end="", flush=True)
        """
        return self._start_generation(prompt, options_from_fields(GenerationOptions, None, options))

    def generate_many(
        self, prompts: Iterable[Prompt], *, batch_size: int = BATCH_SIZE, **options: Unpack[GenerationFields]
    ) -> GenerationBatch:
        """Continue several prompts, `batch_size` of them at a time; their generations, in order, each when it
        and those before it have ended.

        The prompt of index i is continued as `generate` does with `seed` + i, whatever the others are. As one
        ends, the next joins. Without decode.onnx they are continued one after the other.
        """
        chosen = options_from_fields(GenerationOptions, None, options)
        return GenerationBatch(self, prompts, chosen, batch_size, self._start_generation)

    def _start_generation(self, prompt: Prompt, options: GenerationOptions) -> Generation:
        check_writes(self.spec)
        tokenizer = self.tokenizer if isinstance(prompt, str) else None
        return Generation(self, self.read_prompt(prompt), options, tokenizer)

    def start_decoding(self, num_hashes: int | None = None) -> DecodingState:
        """Sequences that grow by a token at a time, each at the cost of its new tokens.

        with model.start_decoding() as state:
            key = state.add("In the beginning")
            state.step({key: int(state.logits(key).argmax())})

        Args:
            num_hashes: as `run`'s, for the whole life of the state.

        Raises:
            InputError: the artifact has no decode.onnx, or this runtime does not decode.
        """
        if self._is_abandoned:
            raise refuse_after_fork(self.folder)
        self.check_decoding()
        return self._start_decoding(num_hashes)

    def check_decoding(self) -> None:
        """InputError unless `start_decoding` works for this artifact and runtime."""
        if self.manifest.decode is None:
            got, expected = f"{self.folder} without {DECODE_NAME}", "an artifact with it"
            fix = "export the checkpoint again with `decode=True`"
            raise InputError("decoding", got, expected, fix)

    @abstractmethod
    def _start_decoding(self, num_hashes: int | None) -> DecodingState:
        """`start_decoding` of an artifact that has the graph for it."""

    def read_prompt(self, prompt: Prompt) -> list[int]:
        """The token ids of text, or of ids in any form; InputError for anything else."""
        return self.encode(prompt) if isinstance(prompt, str) else ids_from_prompt(prompt)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ReformerExportError:
            if error is None:  # else the error that is under way says what went wrong first
                raise
