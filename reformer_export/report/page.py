"""What a page is made of, and the HTML of it: one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export import __version__
from reformer_export.artifact.files import write_atomically
from reformer_export.artifact.manifest import Manifest
from reformer_export.report.figures import Drawing, import_extra
from reformer_export.report.tables import Table

TEMPLATE_NAME: Final = "page.html"


@dataclass(frozen=True)
class Verdict:
    """What a reader wants to know first; `good` is None where it is neither good nor bad."""

    good: bool | None
    headline: str
    reason: str


@dataclass(frozen=True)
class Section:
    """One heading and what stands below it; the manifest's JSON is shown when it is asked for."""

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    manifest: Manifest | None = None

    @property
    def manifest_text(self) -> str:
        return "" if self.manifest is None else json.dumps(self.manifest.to_dict(), indent=2)


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sections: Sequence[Section]
    verdict: Verdict | None = None


def render_page(page: Page) -> str:
    """The page's HTML; MissingDependencyError when jinja2 is not installed."""
    jinja2 = import_extra("jinja2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    text = (Path(__file__).parent / TEMPLATE_NAME).read_text(encoding="utf-8")
    html: str = environment.from_string(text).render(page=page, version=__version__)
    return html


def write_report(report_file: Path, page: Page) -> None:
    """Write the page as one file, whole or not at all.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        OutputError: the system refuses.
    """
    write_atomically(report_file, render_page(page))
