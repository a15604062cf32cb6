"""Run an artifact's engine with TensorRT or TensorRT-RTX on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any, cast

from reformer_export.artifact.decoding import cache_tensors
from reformer_export.artifact.engine_record import (
    EngineProfile,
    EngineRecord,
    EngineRuntime,
)
from reformer_export.errors import InputError
from reformer_export.phases import log_fact, log_phase
from reformer_export.runtimes.base import Runtime
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.device_arrays import is_on_gpu
from reformer_export.runtimes.forks import keep_for_good, release_with, watch_forks
from reformer_export.runtimes.named_inputs import prepare_feeds
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.tensorrt.choice import choose_engines, find_decoding_engine
from reformer_export.runtimes.tensorrt.cuda import CudaDevice
from reformer_export.runtimes.tensorrt.decoding import DeviceCacheMemory, EngineDecoder
from reformer_export.runtimes.tensorrt.engine import OpenedEngine
from reformer_export.runtimes.tensorrt.executor import EngineExecutor
from reformer_export.runtimes.tensorrt.machine import Machine, examine_gpu_machine
from reformer_export.runtimes.tensorrt.packages import import_cuda, import_tensorrt
from reformer_export.runtimes.tensorrt.preflight import check_num_hashes, read_engine
from reformer_export.runtimes.where import Where, check_place


class TensorRTRuntime(Runtime):
    """An artifact's engine open on a GPU

    Use it as a context manager, or call `close`, to give the GPU's memory back at a known time. Threads may
    share it: their requests run one after the other.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: RuntimeOptions,
        *,
        machine: Machine | None = None,
        trt: Any = None,
        cuda: CudaDevice | None = None,
    ) -> None:
        """Check the artifact in the folder `path` and its engine against this machine, then load the engine:
        that of whole passes, or, to be open for "generate", that of decode.onnx, where there is one that
        runs here. The other is loaded when it is needed.

        Args:
            path: the artifact's folder.
            options: of which `runtime` is "tensorrt" or "tensorrt-rtx".
            machine: the facts to check against; None to look at this machine.
            trt: the module to use; None to import `runtime`'s.
            cuda: the GPU to use; None for that of `options.device_id`.

        Raises:
            ArtifactError: the artifact or the engine is broken, or they do not belong together.
            MissingDependencyError: TensorRT or cuda-bindings is not installed, or too old.
            RuntimeUnavailableError: this machine cannot run the engine.
        """
        super().__init__(path, options)
        runtime = cast(EngineRuntime, options.runtime)
        self._machine = examine_gpu_machine(runtime, options.device_id) if machine is None else machine
        self._trt = trt
        self._lock = threading.Lock()
        self._is_closed = False
        self._executor: EngineExecutor | None = None
        self._decoder: EngineDecoder | None = None
        self._states: weakref.WeakSet[DecodingState] = weakref.WeakSet()
        self._options = options
        self._choice = choose_engines(self.folder, self.manifest, options, self._machine)
        self._record = self._choice.first
        self._notes += self._choice.notes
        self.num_hashes = check_num_hashes(self._record, self.manifest, options.num_hashes)
        data = self._read_engine(self._record)
        self._cuda = CudaDevice(import_cuda(), options.device_id or 0) if cuda is None else cuda
        resources = self._resources = contextlib.ExitStack()
        self._release = release_with(self, resources.close)
        try:
            if self._record is self._choice.passes:
                opened = self._open_executor(self._record, data)
            else:
                opened = self._open_decoder(self._record, data)
        except BaseException:
            self._release()
            raise
        self._title = opened.title
        self._notes += [f"{opened.title}: {warning}" for warning in opened.warnings]
        watch_forks(self)

    @property
    def record(self) -> EngineRecord:
        """What the engine is that was opened first."""
        return self._record

    @property
    def profiles(self) -> tuple[EngineProfile, ...]:
        """The shapes that this engine takes."""
        return self._record.profiles

    @property
    def max_length(self) -> int:
        """The longest sequence that a profile takes, in tokens: of a batch of one, where one takes that; of
        the engine of decode.onnx, where there is no other."""
        if self._choice.passes is None:
            return self.max_decoding_length
        if self.manifest.is_custom:
            return self.spec.max_length
        profiles = self._choice.passes.profiles
        alone = [profile for profile in profiles if profile.minimum[0] == 1]
        return min(
            self.spec.max_length, max(max(profile.maximum[1:], default=1) for profile in alone or profiles)
        )

    @property
    def max_decoding_length(self) -> int:
        return min(self.spec.max_length, self._find_decoding_record().longest)

    @property
    def providers(self) -> tuple[str, ...]:
        rounds = "" if self._record.num_hashes is None else f", {self._record.num_hashes} hashes"
        return (f"{self._title}, {self._machine.gpu}, engine {self._record.name}{rounds}",)

    @property
    def native(self) -> None:
        """None: the operators are the engine's plugins."""

    @property
    def notes(self) -> list[str]:
        executor = self._executor
        return [*self._notes, *(executor.notes if executor else ())]

    def _run(self, given: Mapping[str, Any], num_hashes: int | None, where: Where) -> dict[str, Any]:
        """`run` for shapes within one of the engine's profiles, from the host and to it. An engine has its
        number of hashes built in."""
        check_place(where, "cpu", "float32")
        is_on_gpu("cpu", given)
        record = self._choice.passes
        if record is None:
            assert self._choice.no_passes is not None
            raise self._choice.no_passes
        check_num_hashes(record, self.manifest, num_hashes)
        feeds = prepare_feeds(self.manifest, given, self.config.pad_token_id, self.manifest.dtype)
        sizes = self.manifest.signature.bind({name: feed.shape for name, feed in feeds.items()})
        with self._lock:
            if self._is_closed:
                raise InputError(
                    f"engine {record.name}",
                    "a request after close()",
                    "an open engine",
                    "load the artifact again",
                )
            if self._executor is None:
                self._open_executor(record, self._read_engine(record))
            assert self._executor is not None
            outputs = self._executor.run(feeds, tuple(sizes.values()))
        return {each.name: outputs[each.name] for each in self.manifest.outputs}

    def _open_executor(self, record: EngineRecord, data: bytes) -> OpenedEngine:
        """Open the engine of whole passes, whose file's bytes are `data`."""
        with contextlib.ExitStack() as stack:
            self._cuda.activate()
            opened = self._open_engine(record, data)
            stack.callback(opened.close)
            opened.check_signature(self.manifest.signature)
            self._executor = EngineExecutor(opened, self._cuda, cuda_graphs=self._options.cuda_graphs)
            stack.callback(self._executor.close)
            self._resources.callback(stack.pop_all().close)
        return opened

    def check_decoding(self) -> None:
        super().check_decoding()
        self._find_decoding_record()

    def _find_decoding_record(self) -> EngineRecord:
        return find_decoding_engine(self.folder, self._options, self._machine, self._choice.passes)

    def _start_decoding(self, num_hashes: int | None) -> DecodingState:
        with self._lock:
            if self._is_closed:
                raise InputError("decoding", "a closed model", "an open one", "load it again")
            if self._decoder is None:
                record = self._find_decoding_record()
                self._open_decoder(record, self._read_engine(record))
            assert self._decoder is not None
            record, decoder = self._decoder_record, self._decoder
            check_num_hashes(record, self.manifest, num_hashes)
            longest = min(self.spec.max_length, record.longest)
            memory = DeviceCacheMemory(self._cuda)
            state = DecodingState(self.folder, decoder, memory, longest, self.read_prompt, self.spec)
            self._states.add(state)
            return state

    def _open_decoder(self, record: EngineRecord, data: bytes) -> OpenedEngine:
        """Open an engine of decode.onnx, whose file's bytes are `data`."""
        rounds = check_num_hashes(record, self.manifest, None)
        tensors = cache_tensors(self.spec, self.manifest.dtype, rounds)
        with contextlib.ExitStack() as stack:
            self._cuda.activate()
            opened = self._open_engine(record, data)
            stack.callback(opened.close)
            opened.check_decode_signature(tensors)
            self._decoder = EngineDecoder(opened, self._cuda, tensors, self.spec.vocab_size)
            self._decoder_record = record
            stack.pop_all()
        return opened

    def _read_engine(self, record: EngineRecord) -> bytes:
        with log_phase(f"reading engine {record.name} and comparing it with its record"):
            return read_engine(self.folder, self.manifest, record)

    def _open_engine(self, record: EngineRecord, data: bytes) -> OpenedEngine:
        """Load an engine that fits this machine, whose file was compared with its record."""
        self._trt = self._trt or import_tensorrt(record.runtime)
        library = self._machine.library
        path = None if record.plugin.embedded or library is None else library.path
        log_fact("GPU", self._machine.gpu)
        log_fact("plugin library", path or "the engine's own")
        with log_phase(f"opening the engine with {record.runtime} {self._machine.runtime_version}"):
            opened = OpenedEngine(self._trt, record, data, path)
        with contextlib.ExitStack() as stack:
            stack.callback(opened.close)
            if record.flags.stripped:
                opened.refit(self.folder / record.model_name)
            stack.pop_all()
        return opened

    def abandon(self) -> None:
        self._is_abandoned = self._is_closed = True
        for thing in (self._executor, self._decoder):
            keep_for_good(thing)
        self._executor = self._decoder = None
        self._lock = threading.Lock()  # whoever held the other one is not in this process

    def close(self) -> None:
        """Release the engines and all their memory, after a request that is running; see `Runtime.close`."""
        with self._lock:
            self._is_closed = True
            self._executor = None
            self._release()
            decoder, self._decoder = self._decoder, None
            states = list(self._states)
        for state in states:
            state.close()
        if decoder is not None:
            decoder.close()
