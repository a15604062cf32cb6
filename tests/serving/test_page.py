"""The page at / in a real browser: the card, a text that streams and is stopped, a key, another model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reformer_export import load
from reformer_export.runtimes import Runtime
from tests.report.browser import QUIET, contrast, find_chromium
from tests.runtimes.artifacts import write_artifact, write_custom_artifact
from tests.runtimes.decoders import NATIVE_MODES, decoding_artifact
from tests.serving.servers import SECONDS, RunningServer, running_server, wait_until

KEY = "a-key-of-some-length"
LONG = (32, 64)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "keys").write_text(KEY + "\n")
    (folder / "keys").chmod(0o600)
    classes = write_artifact(folder / "classes", "text-classification")
    custom = write_custom_artifact(folder / "custom")
    artifacts: list[Path | str] = [f"bytes={decoding_artifact(positions=LONG)}", classes, custom]
    with running_server(artifacts, "--api-key-file", str(folder / "keys")) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Iterator[Runtime]:
    with load(decoding_artifact(positions=LONG), native=NATIVE_MODES[-1], threads=1) as opened:
        yield opened


@contextmanager
def open_page(served: RunningServer, *, dark: bool, width: int) -> Iterator[Any]:
    """The page, after its key was given; nothing but the server is asked, and nothing complained of but
    statuses, such as the one of the first request, which had no key."""
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET)
        scheme: Any = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(1e3 * SECONDS)
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: served.url in request.url or complaints.append(request.url))
        page.goto(f"http://{served.url}/")
        page.get_by_text("asks for a key").wait_for()
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="bytes").wait_for()
        yield page
        browser.close()
    assert complaints == []


def find_long_seed(model: Runtime) -> int:
    """Of a text of the prompt "In the <b>" that does not end by itself for a while."""
    for seed in range(100):
        if len(list(model.generate("In the <b>", max_new_tokens=900, seed=seed))) == 900:
            return seed
    raise AssertionError("every text ends early")


def test_a_text_by_the_keyboard_and_another_by_the_mouse(served: RunningServer, model: Runtime) -> None:
    (pid,) = (line["pid"] for line in served.log("model_ready") if line["model"] == "bytes")
    with open_page(served, dark=False, width=1100) as page:
        text = page.get_by_role("region", name="Answer")
        assert "Parity\nnot compared with the original" in page.locator("#card").inner_text()
        page.get_by_label("Prompt").fill("In the <b>")
        page.get_by_label("New tokens").fill("40")
        page.get_by_label("Seed").fill("3")
        page.keyboard.press("Control+Enter")
        page.get_by_text("a second").wait_for()
        expected = model.generate("In the <b>", max_new_tokens=40, seed=3).text
        assert text.text_content() == "In the <b>" + expected
        assert page.locator("#text b").count() == 0, "what a model writes is no HTML"

        page.get_by_label("New tokens").fill("2000")
        page.get_by_label("Seed").fill(str(find_long_seed(model)))
        page.get_by_role("button", name="Continue").click()
        wait_until(lambda: len(text.text_content() or "") > len("In the <b>"))
        os.kill(pid, signal.SIGSTOP)
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        os.kill(pid, signal.SIGCONT)
        assert page.get_by_role("button", name="Continue").is_enabled()

        page.get_by_label("Prompt").fill("")
        page.get_by_role("button", name="Continue").click()
        page.get_by_text("prompt: got no token").wait_for()


def test_a_model_that_does_not_write_takes_token_ids(served: RunningServer) -> None:
    with open_page(served, dark=True, width=390) as page:
        page.get_by_label("Model", exact=True).select_option("classes")
        assert not page.get_by_label("Temperature").is_visible()
        page.get_by_label("Token ids").fill("5, six")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Token ids are integers").wait_for()
        page.get_by_label("Token ids").fill("5 6, 7")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("ms.").wait_for()
        assert "logits [1, 3]\n1.8750  2.0000  2.1250" in page.locator("#text").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            "wider than a phone"
        )


def test_a_custom_module_takes_its_inputs_as_json(served: RunningServer) -> None:
    with open_page(served, dark=False, width=390) as page:
        page.get_by_label("Model", exact=True).select_option("custom")
        assert "series float32 [batch, time, 3]" in page.locator("#card").inner_text()
        page.get_by_role("button", name="Run").click()
        page.get_by_text("ms.").wait_for()
        assert "known [1]\nfalse" in page.locator("#text").inner_text()
        page.get_by_label("Inputs, as JSON").fill("[")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Inputs are a JSON list").wait_for()


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_and_reached(served: RunningServer, dark: bool) -> None:
    """Every control has a name and is reached by Tab; text contrasts with what it stands on."""
    with open_page(served, dark=dark, width=1100) as page:
        controls = page.locator("input:visible, select:visible, textarea:visible, button:enabled:visible")
        for index in range(controls.count()):
            named = controls.nth(index).evaluate("e => (e.labels?.[0] || e).textContent")
            assert named.strip()
        reached = set()
        for _ in range(controls.count() + 3):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert len(reached) >= controls.count()
        for selector, back in (
            ("body", "body"),
            ("dt", ".card"),
            ("dd", ".card"),
            ("#hint", "body"),
            ("#go", "#go"),
        ):
            colour, ground = page.evaluate(
                "([a, b]) => [getComputedStyle(document.querySelector(a)).color,"
                " getComputedStyle(document.querySelector(b)).backgroundColor]",
                [selector, back],
            )
            assert contrast(colour, ground) > 4.5, selector


def test_its_policy_lets_nothing_in(served: RunningServer) -> None:
    status, headers, content = served.request("GET", "/")
    policy = headers["content-security-policy"]
    assert status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"http" not in content.replace(b"http-equiv", b"")
    assert served.request("GET", "/card")[0] == 401
