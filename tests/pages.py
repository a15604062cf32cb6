"""The pages of this project, and what they print for a reader to type: command lines and Python."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "models").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
)
PROGRAMS: Final = (
    "reformer-export",
    "pip",
    "make",
    "python",
    "cmake",
    "gpu-bundle/run.sh",
    ".venv/bin/python",
)
"""What a line that is to be typed begins with."""

_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED: Final = re.compile(r"^ {4}\S.*\n(?:^ {4}.*\n|^\n(?= {4}))*", re.MULTILINE)


def read_python(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return [
        code for language, code in _FENCED.findall(page.read_text(encoding="utf-8")) if language == "python"
    ]


def read_command_lines(page: Path) -> Iterator[str]:
    """The command lines of a page's other blocks, those that go on after a backslash as one, in order."""
    indented = _FENCED.sub(_indent_unless_python, page.read_text(encoding="utf-8"))
    for block in _INDENTED.findall(indented):
        for line in re.sub(r"\\\n\s*", "", textwrap.dedent(block)).splitlines():
            words = line.split()
            if words and words[0] in PROGRAMS:
                yield line


def read_links(page: Path) -> Iterator[str]:
    """Where a page's links and pictures lead to, but for those to the web and within the page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?://|#", target):
            yield target.split("#")[0]


def _indent_unless_python(found: re.Match[str]) -> str:
    return "" if found[1] == "python" else textwrap.indent(found[2], "    ")
