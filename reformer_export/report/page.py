"""What a page is made of, and the HTML of it: one file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export import __version__
from reformer_export.errors import MissingDependencyError
from reformer_export.report.figures import Drawing

TEMPLATE_NAME: Final = "page.html"


@dataclass(frozen=True)
class Verdict:
    """What a reader wants to know first."""

    good: bool
    headline: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Rows of texts under named columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One heading and what stands below it; `details` is text that is shown when it is asked for."""

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    details_title: str = ""
    details: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sections: Sequence[Section]
    verdict: Verdict | None = None


def render_page(page: Page) -> str:
    """The page's HTML; MissingDependencyError when jinja2 is not installed."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            f"--report: got '{error}', expected jinja2 and matplotlib; pip install 'reformer-export[report]'"
        ) from error
    environment: Any = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    text = (Path(__file__).parent / TEMPLATE_NAME).read_text(encoding="utf-8")
    html: str = environment.from_string(text).render(page=page, version=__version__)
    return html
