from __future__ import annotations

import threading

from reformer_export.runtimes.tensorrt.log import KEPT_MESSAGES, MAX_CHARACTERS, MessageStore, open_log
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import FakeTensorRT, ILogger


def test_errors_and_warnings_after_a_mark() -> None:
    store = MessageStore()
    store.add(True, "old")
    mark = store.mark()
    store.add(False, "take care")
    store.add(True, "first cause")
    store.add(False, "take care")
    store.add(True, "what follows")
    assert store.errors_since(mark) == "first cause; what follows"
    assert store.warnings_since(mark) == ["take care"]
    assert store.errors_since(store.mark()) == "no reason in its log"
    assert store.warnings_since(store.mark()) == []


def test_memory_and_lines_stay_bounded() -> None:
    store = MessageStore()
    for number in range(10 * KEPT_MESSAGES):
        store.add(True, f"{number} " + "x" * 10_000)
    assert len(store._messages) == KEPT_MESSAGES
    assert store.mark() == 10 * KEPT_MESSAGES
    line = store.errors_since(0)
    assert line.startswith(f"{9 * KEPT_MESSAGES} x")
    assert len(line) == MAX_CHARACTERS


def test_messages_from_many_threads_are_all_counted() -> None:
    store = MessageStore()
    threads = [threading.Thread(target=lambda: [store.add(True, "x") for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.mark() == 1600


def test_a_module_has_one_log_which_keeps_errors_and_warnings_only() -> None:
    trt = FakeTensorRT(FakeCuda())
    log = open_log(trt)
    assert open_log(trt) is log
    assert open_log(FakeTensorRT(FakeCuda())) is not log
    for severity in ILogger.Severity:
        log.log(severity, f"a message\n  of {severity.name}")
    assert log.store.errors_since(0) == "a message of INTERNAL_ERROR; a message of ERROR"
    assert log.store.warnings_since(0) == ["a message of WARNING"]
