"""Tables fit 80 columns whatever the names: names are shortened in the middle, numbers never."""

import pytest

from runtime.commands import BenchRecord, CheckRecord, InferRecord, InfoRecord, ServedBudget, VariantRow
from runtime.tables import Column, format_table, names, shorten, show_bench, show_check, show_infer, show_info

LONG = "n" * 30 + "m" * 30
QUALITY = {"luma": 65280, "noise": 4096, "detail": -4096, "blocks": 77777}


def lines_of(text: str) -> list[str]:
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80, text
    return lines


def infer_record(picture: str, label: str, variant: str, first: str) -> InferRecord:
    return InferRecord(
        picture=picture,
        label=label,
        index=1,
        score=0.9876,
        classes=["no", label],
        scores=[0.0124, 0.9876],
        logits=[-5, 123],
        variant=variant,
        first=first,
        escalated=variant != first,
        level="x86:avx512-vnni",
        ms=1234.56,
        quality=QUALITY,
    )


@pytest.mark.parametrize("width", range(1, 12))
def test_the_middle_goes_first(width):
    short = shorten("abcdefghijk", width)
    assert len(short) == width and short[0] in "a…" and (width < 3 or short[-1] == "k")
    assert shorten("abcdefghijk", 5) == "ab…jk" and shorten("abc", 5) == "abc"


def test_the_widest_names_are_shortened_and_numbers_never():
    table = format_table([names("a", [LONG]), names("b", ["fits here"]), Column("count", ["9" * 40])])
    title, row = lines_of(table)
    assert title.split() == ["a", "b", "count"] and len(row) == 80
    assert "fits here" in row and row.endswith("9" * 40) and row.startswith("nnn") and "…" in row


def test_numbers_that_do_not_fit_stay_whole():
    assert "9" * 90 in format_table([names("a", ["abcdef"]), Column("count", ["9" * 90])])


def test_check_is_narrow():
    lines = lines_of(show_check([CheckRecord(LONG, "x86:avx512-vnni", 100_000, 100_000_000, 12_345_678)]))
    assert lines[1].split()[-3:] == ["100000", "100000000", "12345678"] and lines[1].split()[1] == "x86:avx512-vnni"
    assert lines[2].startswith("12345678 logits differ; this device computes something else")


@pytest.mark.parametrize("first", [LONG, "w4a4"])
def test_infer_is_narrow(first):
    lines = lines_of(show_infer([infer_record(f"/{LONG}/a.png", LONG, LONG, first)], "x86:avx512-vnni", "0.5"))
    assert lines[0] == "level x86:avx512-vnni, budget 0.5"
    assert ("first" in lines[1].split()) == (first == "w4a4")
    numbers = lines[2].split()
    assert numbers[2] == "0.988" and numbers[-4:] == ["1234.6", "65280", "4096", "-4096"]
    assert numbers[0].endswith(".png") and "…" in numbers[0]


def test_names_of_common_length_are_whole():
    lines = lines_of(show_infer([infer_record("images/cat.png", "automobile", "w8a8", "w4a4")], "x86:avx2", ""))
    assert lines[0] == "level x86:avx2"
    assert lines[2].split()[:5] == ["images/cat.png", "automobile", "0.988", "w8a8", "w4a4"]


def test_bench_is_narrow():
    records = [
        BenchRecord(step, variant, "x86:avx512-vnni", 16, LONG, 200, 1.25, 12345.67, 1234567.89)
        for step, variant in (("run", LONG), ("both", f"{LONG}, {LONG}"), ("infer", ""))
    ]
    lines = lines_of(show_bench(records))
    assert lines[:2] == ["level x86:avx512-vnni, 16 threads, 200 calls of each step, on", LONG]
    assert all(line.split()[-3:] == ["1.2", "12345.7", "1234567.9"] for line in lines[3:]) and len(lines) == 6


@pytest.mark.parametrize("accuracy, shown", [(0.98765, "98.8%"), (None, "not measured")])
@pytest.mark.parametrize("worst", [None, 1.55555])
def test_info_is_narrow(accuracy, shown, worst):
    variant = VariantRow(LONG, 0.12345, accuracy, 123_456_789, 12_345_678_901, LONG)
    budgets = [ServedBudget(0.12345, 0.5, worst, False), ServedBudget(1.5, 0.75, worst, True)]
    record = InfoRecord(LONG, "x86:avx512-vnni", "x86:avx512-vnni", 0.25, [variant], budgets)
    lines = lines_of(show_info(record))
    assert lines[0].endswith(" for x86:avx512-vnni; level x86:avx512-vnni runs here")
    assert shown in lines[2] and "0.123" in lines[2] and "123456789" in lines[2] and "12345678901" in lines[2]
    assert lines[3].startswith("budget: 0.25, that of its run")
    assert ("largest cost" in lines[5]) == (worst is not None)
    assert lines[6].split()[0] == "0.1235" and lines[7].endswith("<- default")
