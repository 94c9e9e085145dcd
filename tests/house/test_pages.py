"""The documentation: links lead somewhere, tables can be read, options are those of the parsers, words are few."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "train/zoo/README.md", ROOT / "findings/README.md"]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"python -m ((?:train|compile|runtime|targets|benchmarks|tests)[\w.]*)")
FILE = re.compile(r"`((?:train|compile|runtime|targets|benchmarks|tests|docs)/[\w./-]+\.(?:py|md|json))`")
MOST_CELL, MOST_WORDS, MOST_LINES = 120, 600, 85


def anchors(page: Path) -> set[str]:
    """The names under which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name).resolve()
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: no heading for {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_table_cells_are_short(page):
    for line in FENCE.sub("", page.read_text()).splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
            assert all(len(cell) <= MOST_CELL for cell in cells), f"{page.name}: {max(cells, key=len)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_files_that_are_named_are_there(page):
    text = page.read_text()
    for module in MODULE.findall(text):
        path = ROOT.joinpath(*module.rstrip(".").split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page.name}: {module}"
    if page.name != "CHANGELOG.md":
        for name in FILE.findall(text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert len(FENCE.sub("", text).split()) <= MOST_WORDS


def test_every_page_is_in_the_navigation():
    tomllib = pytest.importorskip("tomllib")

    def pages(entries: list) -> list[str]:
        return [
            p
            for entry in entries
            for value in entry.values()
            for p in (pages(value) if isinstance(value, list) else [value])
        ]

    named = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(named) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_option_tables_are_those_of_the_parsers():
    """python docs/options.py writes them."""
    done = subprocess.run([sys.executable, "docs/options.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("zensical")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build" / "docs" / "architecture" / "index.html").is_file()
