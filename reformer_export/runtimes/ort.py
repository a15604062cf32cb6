"""Run an artifact with ONNX Runtime, on the CPU or a CUDA GPU."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from reformer_export.artifact.decoding import DECODE_NAME, cache_tensors
from reformer_export.artifact.manifest import (
    EXTERNAL_DATA_NAME,
    MODEL_NAME,
    Manifest,
    check_files,
    checking_beside,
)
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import ArtifactError, InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.libraries.gpus import find_gpu
from reformer_export.libraries.operators import NativeLibrary, find_native_library
from reformer_export.runtimes.base import Runtime
from reformer_export.runtimes.cache_memory import CudaCacheMemory, HostCacheMemory
from reformer_export.runtimes.decode_session import DecodeSession, check_decode_signature
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.dense_layers import PRODUCTS_KEY
from reformer_export.runtimes.device_arrays import is_on_gpu, prepare_device_inputs
from reformer_export.runtimes.forks import keep_for_good, watch_forks
from reformer_export.runtimes.named_inputs import prepare_feeds
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.ort_binding import BoundSession, Feed
from reformer_export.runtimes.ort_errors import ProviderError, error_from_run
from reformer_export.runtimes.ort_notes import (
    BODIES_ON_CUDA,
    BUILD_FOR_CUDA,
    OTHER_TYPES_ARE_FAST,
    TF32_ROUNDS,
    describe_products,
    find_cuda_problem,
)
from reformer_export.runtimes.ort_session import (
    CPU,
    CUDA,
    Placement,
    check_signature,
    choose_provider,
    fuses_dense_layers,
    open_session,
)
from reformer_export.runtimes.pinned import open_pinned_buffers
from reformer_export.runtimes.upcast import upcast_model
from reformer_export.runtimes.where import Where, check_place
from reformer_export.spec import DType


class OnnxRuntime(Runtime):
    """An artifact open in ONNX Runtime."""

    _checked_beside = frozenset({EXTERNAL_DATA_NAME})

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: RuntimeOptions | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        """Check the artifact in the folder `path` and open it; see `reformer_export.load`.

        `manifest`: that of an artifact whose manifest.json is still to be written; None to read it.
        """
        options = options or RuntimeOptions()
        super().__init__(path, options, manifest)
        if options.tf32 and self.manifest.dtype != "float32":
            got = f"it for an artifact in {self.manifest.dtype}"
            raise InputError("tf32", got, "one in float32", f"leave it out: {OTHER_TYPES_ARE_FAST}")
        self._placement = Placement()
        self._checks = options.check
        self._lock = threading.Lock()
        self._bound: BoundSession | None = None
        self._states: weakref.WeakSet[DecodingState] = weakref.WeakSet()
        precision = self.manifest.low_precision
        self._product_types = set() if precision is None else {precision.weights}
        first = DECODE_NAME if options.open_for == "generate" and self.manifest.decode else MODEL_NAME
        with self._checking_weights():
            session = self._open(first, options)
        self._sessions: dict[str, Any] | None = {first: session}
        self._providers = tuple(self._sessions[first].get_providers())
        is_on_gpu = self._placement.provider == CUDA
        self._pinned = open_pinned_buffers(self._placement.device_id) if is_on_gpu else None
        watch_forks(self)

    @property
    def providers(self) -> tuple[str, ...]:
        return self._providers

    @property
    def native(self) -> NativeLibrary | None:
        return self._placement.library

    @property
    def description(self) -> str:
        choice = self.manifest.runtime_num_hashes
        rounds = "" if choice is None else f", {self.num_hashes} of {choice.max_hashes} hashes"
        return f"{self._placement.description}{self.products}{rounds}"

    @property
    def products(self) -> str:
        """With what the library multiplies this model's weights, in words that follow its name."""
        library = self._placement.library if self._placement.provider == CPU else None
        named = {} if library is None else library.products
        return "".join(f", {kind} with {name}" for kind, name in named.items() if kind in self._product_types)

    @property
    def placement(self) -> Placement:
        """Where the graph runs, for other graphs that shall run there too."""
        return self._placement

    def close(self) -> None:
        with self._lock:
            self._sessions = self._bound = None
            states = list(self._states)
        for state in states:
            state.close()
        if self._pinned is not None:
            self._pinned.close()

    def abandon(self) -> None:
        self._is_abandoned = True
        for thing in (self._bound, self._pinned):
            keep_for_good(thing)
        self._sessions = self._bound = self._pinned = None
        self._lock = threading.Lock()  # whoever held the other one is not in this process

    def _start_decoding(self, num_hashes: int | None) -> DecodingState:
        rounds = choose_num_hashes(self.manifest, num_hashes, self.num_hashes)
        tensors = cache_tensors(self.spec, self._graph_dtype, rounds)
        is_on_gpu = self._placement.device == "cuda"
        memory = CudaCacheMemory(self._placement.device_id) if is_on_gpu else HostCacheMemory()
        with self._lock:
            session = DecodeSession(
                self._find_session(DECODE_NAME), self._placement, tensors, self.spec.vocab_size, rounds
            )
            state = DecodingState(self.folder, session, memory, self.max_length, self.read_prompt, self.spec)
            self._states.add(state)
            return state

    def _bind_whole_pass(self) -> BoundSession:
        bound = self._bound
        if bound is not None:
            return bound
        with self._lock:
            if self._bound is None:
                self._bound = BoundSession(self._find_session(MODEL_NAME), self._placement, self._pinned)
            return self._bound

    def _find_session(self, name: str) -> Any:
        """The session of the artifact's graph `name`, which is opened if it is not yet; under the lock."""
        if self._sessions is None:
            raise InputError(self.folder, "a closed model", "an open one", "load it again")
        if name not in self._sessions:
            if self._checks:  # another export may have taken the folder's place
                check_files(self.folder, self.manifest, (name,))
            with self._checking_weights():
                session = self._open_graph(name)
            self._sessions[name] = session
        return self._sessions[name]

    def _checking_weights(self) -> AbstractContextManager[None]:
        """Around opening a session, which maps the weights: theirs is most of the time that SHA-256 takes."""
        if not self._checks:
            return nullcontext()
        return checking_beside(self.folder, self.manifest, EXTERNAL_DATA_NAME)

    def _run(self, given: Mapping[str, Any], num_hashes: int | None, where: Where) -> dict[str, Any]:
        bound = self._bind_whole_pass()
        check_place(where, bound.device, self._graph_dtype)
        rounds = choose_num_hashes(self.manifest, num_hashes, self.num_hashes)
        feeds: dict[str, Feed]
        if is_on_gpu(bound.device, given):
            feeds = prepare_device_inputs(self.manifest, given, self._placement.device_id)
        else:
            feeds = {**prepare_feeds(self.manifest, given, self.config.pad_token_id, self._graph_dtype)}
        shapes = {name: feed.shape for name, feed in feeds.items()}
        if rounds is not None:
            feeds[NUM_HASHES_INPUT] = np.array([rounds], np.int64)
        names = [each.name for each in self.manifest.outputs]
        as_float32 = where.dtype == "float32"
        try:
            if where.device == "cuda":
                values: list[Any] = bound.run_on_device(names, feeds, as_float32)
            else:
                sizes = self.manifest.signature.bind(shapes)
                values = (bound.run if as_float32 else bound.run_as_is)(names, feeds, sizes)
        except ReformerExportError:
            raise
        except Exception as error:
            name = self.manifest.inputs[0].name
            is_custom = self.manifest.is_custom
            raise error_from_run(error, shapes[name], bound.device, name=name, is_custom=is_custom) from error
        return dict(zip(names, values, strict=True))

    @property
    def _graph_dtype(self) -> DType:
        """Of the outputs as the graph gives them: the artifact's, but upcast from bfloat16 on the CPU."""
        is_upcast = self.manifest.dtype == "bfloat16" and self._placement.provider == CPU
        return "float32" if is_upcast else self.manifest.dtype

    def _open(self, name: str, options: RuntimeOptions) -> Any:
        """The first session, of the artifact's graph `name`: it decides where the others run."""
        session = None
        if choose_provider(options.provider) == CUDA:
            session = self._try_cuda(name, options)
        if session is not None:
            if self._placement.tf32:
                self._notes.append(TF32_ROUNDS)
            return session
        if options.tf32:
            self._notes.append("There is no TF32 on the CPU: products are float32's.")
        if options.device_id is not None:
            self._notes.append(f"GPU {options.device_id} is not used: the model runs on the CPU.")
        self._placement = Placement(CPU, options.threads, find_native_library(options.native))
        self._notes.extend(describe_products(self.manifest, self._placement.library))
        return self._open_graph(name)

    def _open_graph(self, name: str) -> Any:
        """A session of the artifact's graph `name`, where the placement says."""
        model = self.folder / name
        fuses = fuses_dense_layers(name)
        if self.manifest.dtype == self._graph_dtype:
            # ONNX Runtime 1.31 on CUDA gives away the memory of shapes that a body's Loop has yet to read.
            on_bodies = self._placement.provider == CUDA and self._placement.library is None
            reuses_memory = not (on_bodies and name == DECODE_NAME)
            session = open_session(model, self._placement, reuses_memory=reuses_memory, fuses_dense=fuses)
        else:
            with tempfile.TemporaryDirectory(prefix="reformer-export-", ignore_cleanup_errors=True) as folder:
                library = self._placement.library
                keeps_products = library is not None and library.bfloat16_products is not None
                upcast = upcast_model(model, Path(folder), keeps_products)
                session = open_session(upcast, self._placement, fuses_dense=fuses)
        if self._placement.provider == CPU:
            self._product_types.add(session.get_modelmeta().custom_metadata_map.get(PRODUCTS_KEY))
        if name == DECODE_NAME:
            check_decode_signature(model, session, cache_tensors(self.spec, self._graph_dtype))
        else:
            check_signature(model, session, self.manifest)
        return session

    def _try_cuda(self, name: str, options: RuntimeOptions) -> Any:
        """A session on CUDA; None, and a note, where the CPU has to do and `provider` leaves it to us."""
        try:
            session = self._open_on_cuda(name, options)
            if session is None or CUDA in session.get_providers():
                return session
            reason, fix = "ONNX Runtime could not start CUDA here", "see `reformer-export doctor`"
            raise ProviderError(reason, "a GPU, its driver and CUDA's libraries", fix)
        except ProviderError as error:
            if options.provider == "cuda":
                raise
            self._notes = [f"CUDA could not be started, so the model runs on the CPU: {error.reason}."]
            return None

    def _open_on_cuda(self, name: str, options: RuntimeOptions) -> Any:
        """A session on CUDA, with the library's kernels where it has them, else on the function bodies.

        None when "on" asks for kernels, CUDA has none and `provider` leaves it to us: then on to the CPU.
        """
        device_id = options.device_id or 0
        if options.device_id is not None:
            find_gpu(options.device_id)  # which refuses an index that there is not
        library = find_native_library(options.native)
        problem = (
            "no native library is installed" if library is None else find_cuda_problem(library, self.spec)
        )
        if library is not None and problem is None:
            self._placement = Placement(CUDA, options.threads, library, options.tf32, device_id)
            try:
                return self._open_graph(name)
            except ArtifactError as error:
                problem = str(error)  # such as a GPU that the library has no code for
        if options.native == "on":
            if options.provider == "cuda":
                got = f"no kernels for CUDA ({problem})"
                fix = f'use {BUILD_FOR_CUDA}, `native="auto"` or `provider="cpu"`'
                raise RuntimeUnavailableError("native", got, "a library that has them", fix)
            self._notes.append(f"The model runs on the CPU, for which there are native kernels: {problem}.")
            return None
        if options.native == "auto":
            self._notes.append(f"{BODIES_ON_CUDA}: {problem}. {BUILD_FOR_CUDA} builds them for this GPU.")
        self._placement = Placement(CUDA, options.threads, None, options.tf32, device_id)
        return self._open_graph(name)
