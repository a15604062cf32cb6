"""What is handed out: the source distribution, its description, the extras, the list of `make help`."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MAX_SDIST_BYTES = 1_000_000


def build(call: str) -> None:
    """Make a distribution as a build without isolation makes it."""
    for name in ("scikit_build_core", "hatch_fancy_pypi_readme"):
        pytest.importorskip(name, reason="not in an environment of an older pyproject.toml")
    code = f"from scikit_build_core import build; build.{call}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    build(f"build_sdist({str(folder)!r})")
    (path,) = folder.glob("*.tar.gz")
    return path


def read_names(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def read_description(sdist: Path) -> Message:
    with tarfile.open(sdist) as archive:
        member = next(name for name in archive.getnames() if name.endswith("/PKG-INFO"))
        stream = archive.extractfile(member)
        assert stream is not None
        return message_from_bytes(stream.read())


def test_the_sources_are_whole_and_without_tests(sdist: Path) -> None:
    names = read_names(sdist)
    assert sdist.stat().st_size < MAX_SDIST_BYTES
    assert not [name for name in names if re.match(r"(plugins/)?tests|models|benchmarks|\.ci|.*\.so$", name)]
    tracked = subprocess.run(
        ["git", "ls-files", "reformer_export", "plugins"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = {name for name in tracked.stdout.split() if not name.startswith("plugins/tests/")}
    assert wanted - names == set()
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names


def test_its_description_says_who_for_what_and_links_nowhere_that_is_not_there(sdist: Path) -> None:
    description = read_description(sdist)
    assert description["Author"]
    assert description["License-Expression"] == "Apache-2.0"
    text = str(description.get_payload())
    assert text.startswith("# reformer-export")
    assert not re.findall(r"\]\((?!https?://|#)", text)
    classifiers = description.get_all("Classifier") or []
    low, high = re.findall(r"3\.(\d+)", description["Requires-Python"])[::-1]
    for minor in range(int(low), int(high)):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert "Environment :: GPU :: NVIDIA CUDA" in classifiers
    assert "Operating System :: POSIX :: Linux" in classifiers


def read_extras() -> dict[str, list[str]]:
    """The packages of every extra, as pyproject.toml spells them."""
    (table,) = re.findall(
        r"^\[project\.optional-dependencies\]\n(.*?)^\[", SETTINGS, re.DOTALL | re.MULTILINE
    )
    extras = re.findall(r"^(\w+) = \[(.*?)\]$", table, re.DOTALL | re.MULTILINE)
    return {name: re.findall(r'"([\w-]+)', packages) for name, packages in extras}


@pytest.mark.parametrize("name", sorted(read_extras()))
def test_the_readme_names_every_extra_and_what_it_brings(name: str) -> None:
    (row,) = re.findall(rf"^\| [^|]*`{name}`[^|]*\|([^|]*)\|", README, re.MULTILINE)
    if name in ("export", "text", "report"):
        assert set(re.split(r"[ ,]+", row.strip())) == set(read_extras()[name])


def test_a_clone_adds_nothing_but_itself_to_the_path_of_python(tmp_path: Path) -> None:
    """Of `make demo`, which installs it editable: not the folder that the clone lies in, either."""
    build(f"build_editable({str(tmp_path)!r}, {{'wheel.cmake': 'false'}})")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".pth")]
        lines = wheel.read(name).decode().splitlines()
    assert [line for line in lines if not line.startswith("import ")] == [str(ROOT)]


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rules = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (phony,) = re.findall(r"^\.PHONY:(.*)$", rules, re.MULTILINE)
    assert re.findall(r"^  make ([\w-]+)  +\S", listed, re.MULTILINE)
    assert set(re.findall(r"^  make ([\w-]+)", listed, re.MULTILINE)) == set(phony.split())
