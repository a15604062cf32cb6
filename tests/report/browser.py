"""A page in a real headless browser: what it says to its console, what it shows, where the keyboard gets."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests.required import skip_unless_required

PAGE_BACK = (255, 255, 255)
"""In the light page."""

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


def find_chromium() -> str:
    """The browser's path; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    return found or skip_unless_required(f"no browser: none of {', '.join(CHROMIUM_NAMES)} is installed")


@dataclass
class Seen:
    """`page` is Playwright's; `complaints` are the console's errors and requests that leave the file."""

    page: Any
    complaints: list[str] = field(default_factory=list)


@contextmanager
def open_page(path: Path, *, dark: bool = False, width: int = 1100) -> Iterator[Seen]:
    """The file `path` in a window of `width` pixels, with no network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        seen = Seen(context.new_page())
        seen.page.on("console", lambda message: _note(seen, message.type, message.text))
        seen.page.on("pageerror", lambda error: _note(seen, "error", str(error)))
        seen.page.on("request", lambda request: _note_request(seen, request.url))
        seen.page.goto(path.as_uri())
        yield seen
        browser.close()


def _note(seen: Seen, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        seen.complaints.append(f"{kind}: {text}")


def _note_request(seen: Seen, url: str) -> None:
    if not url.startswith(("file:", "data:")):
        seen.complaints.append(f"request: {url}")


def check_page(path: Path) -> None:
    """What every report has to be: silent, with every figure described, readable on a phone, and with every
    link and scrollable part reached by the keyboard."""
    for dark in (False, True):
        with open_page(path, dark=dark) as seen:
            assert seen.complaints == []
            figures = seen.page.locator("figure")
            for index in range(figures.count()):
                figure = figures.nth(index)
                image = figure.locator("[role=img]")
                assert image.get_attribute("aria-label"), "a figure without words"
                assert figure.locator("svg").bounding_box()["height"] > 50
                assert figure.locator("figcaption").inner_text().strip()
            back, text = seen.page.evaluate(
                "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; }"
            )
            assert contrast(back, text) > 7, (back, text)
    with open_page(path, width=390) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
            "wider than a phone"
        )
        _check_what_scrolls(seen.page)
    with open_page(path) as seen:
        wanted = seen.page.locator("a, summary, [tabindex='0']").count()
        reached = set()
        for _ in range(wanted + 2):
            seen.page.keyboard.press("Tab")
            reached.add(
                seen.page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
            )
        assert len(reached) >= wanted


def _check_what_scrolls(page: Any) -> None:
    """What is wider than the window has a shadow at the end that is cut, which goes where all was seen."""
    parts = page.locator(".wide")
    for index in range(parts.count()):
        part = parts.nth(index)
        if part.evaluate("e => e.scrollWidth > e.clientWidth + 1"):
            assert _edge_differs(part), "it scrolls, and nothing tells"
            part.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
            assert not _edge_differs(part), "a shadow where nothing is left to see"


def _edge_differs(part: Any) -> bool:
    """Whether the right border of pixels is darker or lighter than the page all the way down."""
    image = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    edge = [image.getpixel((image.width - 2, y)) for y in range(2, image.height - 2)]
    return sum(pixel != PAGE_BACK for pixel in edge) > 0.9 * len(edge)


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two CSS colours "rgb(r, g, b)"."""
    lights = []
    for colour in (first, second):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
