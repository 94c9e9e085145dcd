"""The page of a build: complete in itself, well formed, and no text of a file becomes markup."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compile import build as builder
from compile.ladder.layers import LayerDifference
from compile.page.markup import Heading, Markup, bar, element, joined, table, visible
from compile.page.page import page, write_page
from compile.report import BuildReport, VariantReport
from compile.settings import BuildError, BuildSettings
from compile.times.layer_table import LayerTable, LayerTime
from compile.verify import Rung, VerificationError
from targets import find

EVIL = "<script>alert(1)</script>\"&'\x1b[31m\u202e"
VOID = {"meta"}


class Reader(HTMLParser):
    """The tags of a page, in order, and its texts; fails where an element is not closed in its place."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report(name: str = "net", layers: int = 20) -> BuildReport:
    rows = tuple(
        LayerTime(name if k == 0 else f"layer{k}", name, "w8a8", 1000 * k, 2.0 * k, False, None) for k in range(20)
    )
    tables = (LayerTable(("arm:cortex-a72",), rows, "cycles, modelled", None),)
    variant = VariantReport(name, name, {"a": (8, 8), "b": (4, 4)}, 10**7, 0.5, 0.8, tables)
    differences = tuple(LayerDifference(f"{name}{k}", 1000, k * 10, k, k, 1) for k in range(layers))
    rungs = (
        Rung(name, "onnxruntime", 8, 80, 70, 7, 6, 9, 100, differences),
        Rung(name, "arm:cortex-a72", 4, 40, 0, 4),
        Rung(name, "arm:cortex-a76", 0, 0, 0, 0),
    )
    return BuildReport(Path("bundles") / name.replace("/", "_"), "arm", 0, (variant,), rungs)


def test_text_of_files_never_becomes_markup():
    read = Reader(page(report(EVIL)))
    assert "script" not in read.tags and not any(key.startswith("on") for key, _ in read.attributes)
    assert any("<script>alert(1)</script>\"&'\\u001b[31m\\u202e" in text for text in read.texts)
    assert not any(c in page(report(EVIL)) for c in "\x1b\u202e")


def test_the_page_needs_nothing_beside_it():
    text = page(report())
    read = Reader(text)
    assert not {"script", "img", "link", "iframe", "object"} & set(read.tags)
    assert not {"src", "href", "srcset"} & {key for key, _ in read.attributes} and "url(" not in text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_every_section_has_its_figures():
    texts = Reader(page(report())).texts
    for expected in (
        "What was built",
        "Verification ladder",
        "Differences by layer",
        "Cost by layer",
        "indicative",
        "not run",
        "w4a4 +1",
        "80.0%",
        "~380.0 cycles",
        "7 more",  # of 19 layers that differ
        "8 more",  # of 20 layers
    ):
        assert expected in texts, expected
    assert any(text.startswith("net: 70 of 80 logits differ from onnxruntime's") for text in texts)


def test_layers_come_worst_and_dearest_first():
    texts = Reader(page(report())).texts
    assert texts.index("net19") < texts.index("net18") < texts.index("net1")
    assert texts.index("layer19") < texts.index("layer18") < texts.index("layer1")


def test_sections_without_anything_are_left_out():
    whole = report()
    bare = replace(whole, variants=(replace(whole.variants[0], tables=()),), rungs=whole.rungs[1:])
    texts = Reader(page(bare)).texts
    assert "Differences by layer" not in texts and "Cost by layer" not in texts
    assert any(text.startswith("Verified: all 40 logits") for text in texts)


def test_a_failed_rung_is_the_first_thing_told():
    whole = report()
    failed = replace(whole, rungs=(*whole.rungs, replace(whole.rungs[1], answers="x86", differing=3)))
    text = page(failed)
    assert "Failed: net: x86 = reference, 3 of 40 logits differ. No bundle was written." in text
    assert 'class="verdict failed"' in text and "Verified" not in text


def test_markup():
    assert element("a", "<", Markup("<b></b>"), class_='x"y') == '<a class="x&quot;y">&lt;<b></b></a>'
    assert joined("a\u202eb\n", Markup("c")) == "a\\u202eb\\u000ac" and visible("né ✓") == "né ✓"
    assert "width:100.00%" in bar(7.0) and "width:0.00%" in bar(-1.0) and 'class="fill bad"' in bar(0.5, "bad")
    rows = table("", [Heading("a"), Heading("b"), Heading("c", True)], [["1", "", "<"], ["2", "", "3"]])
    assert Reader(rows).texts == ["a", "c", "1", "<", "2", "3"]


def test_a_folder_is_no_page(tmp_path):
    settings = BuildSettings(find("x86"), (), report=tmp_path)
    with pytest.raises(BuildError, match="expected the name of an HTML file, got a folder"):
        settings.require_files()
    write_page(tmp_path / "new" / "page.html", report())
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_builds_write_their_page(run_folder, tmp_path, monkeypatch):
    """With what takes room in the bundle; a build that fails leaves a page that says so."""
    words = [str(run_folder), "--target", "x86:avx2", "--no-times", "--out", str(tmp_path / "b")]
    assert builder.main([*words, "--report", str(tmp_path / "page.html")]) == 0
    texts = Reader((tmp_path / "page.html").read_text()).texts
    assert {"weights.bin", "lib", "manifest.json", "w8a8", "mixed", "w2a2", "equal"} <= set(texts)
    from compile import stages

    def failing(*_):
        return [Rung("w8a8", "x86:avx2", 4, 40, 2, 4)]

    monkeypatch.setattr(stages, "verify_variants", failing)
    settings = BuildSettings(
        find("x86:avx2"), (run_folder,), tmp_path / "c", times=False, report=tmp_path / "failed.html"
    )
    with pytest.raises(VerificationError):
        builder.build(settings)
    assert "No bundle was written" in (tmp_path / "failed.html").read_text() and not (tmp_path / "c").exists()
