"""What a build prints: tables of 80 columns whatever the names, equal rows once, and a summary in one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from compile.ladder.layers import LayerDifference
from compile.printing import BuildPrinter
from compile.report import BuildReport, VariantReport
from compile.tables import (
    differences_table,
    ladder_table,
    layers_table,
    meaning_of_differences,
    summary,
    variants_table,
)
from compile.text_table import Column, TextTable, shorten
from compile.times.layer_table import LayerTable, LayerTime
from compile.verify import Rung, VerificationError

LONG = "/features/features.17/conv/conv.0/conv.0.0/Conv_output_0_QuantizeLinear"
WINOGRAD = "Winograd 4x2 of bytes, int16 chain 4"
ROWS = (
    LayerTime("picture", "portable move", "", 0, 0.0852, False, 0.0949),
    LayerTime(LONG, WINOGRAD, "w4a4", 2_360_000, 11.3, True, 10.9),
    LayerTime("conv2", WINOGRAD.replace("chain 4", "chain 8"), "w4a4", 2_360_000, 13.3, False, 13.0),
    LayerTime("conv3", WINOGRAD, "w4a4", 2_360_000, 12.0, False, 12.5),
)
MEASURED = LayerTable(("x86:avx2",), ROWS, "us", 71.0)
CYCLES = LayerTable(
    ("arm:cortex-a72",),
    tuple(replace(row, measured=None, predicted=1_410_000.0) for row in ROWS),
    "cycles, modelled by llvm-mca",
    None,
)
W4A4 = VariantReport("w4a4", "w4a4", {"conv2": (4, 4)}, 12_500_000, 0.277, 0.8, (MEASURED,))
PRIVATE = replace(W4A4, name="w4a4-q0", accuracy=0.823, tables=())
W8A8 = VariantReport("w8a8", "w8a8", {"conv2": (8, 8)}, 12_500_000, 1.0, None, (replace(MEASURED, network_us=108.9),))
EQUAL = Rung("w8a8", "x86:avx2", 4, 40, 0, 4)
LAYERS = (
    LayerDifference("first", 100, 0, 0, 0, 0),
    LayerDifference("second", 1000, 20, 1, 2, 1),
    LayerDifference(LONG, 10, 9, 14, 0, 0),
)
FOREIGN = Rung("w8a8", "onnxruntime", 8, 8000, 3979, 7, needed=6, largest=12, span=8934, layers=LAYERS)


@pytest.mark.parametrize("width", [9, 20, 71, 72])
def test_names_lose_their_middle(width):
    short = shorten(LONG, width)
    assert len(short) == min(width, len(LONG)) and short[0] == "/"
    assert short == LONG if width >= len(LONG) else "…" in short and LONG.endswith(short[-3:])


def test_tables_fit_whatever_the_names():
    variant = replace(W4A4, name=LONG, code_of=LONG)
    rung = replace(EQUAL, variant=LONG, answers="x86:avx-vnni encoded for AVX-512")
    tables = [
        layers_table(LONG, MEASURED),
        layers_table(LONG, CYCLES),
        ladder_table([rung, replace(FOREIGN, variant=LONG, differing=12_345_678)]),
        differences_table(replace(FOREIGN, variant=LONG)),
        variants_table([variant, W8A8]),
    ]
    for table in tables:
        assert max(map(len, table.render().splitlines()[1:])) <= 80
        assert LONG in table.render(None)


def test_numbers_are_never_shortened():
    columns = (Column("name", shrinks=True), Column("number", right=True))
    table = TextTable("", columns, (("a" * 40, "123,456,789"),))
    assert table.render(20).splitlines()[2].split() == ["aaa…aaa", "123,456,789"]
    assert "123,456,789" in table.render(5)


def test_columns_that_say_nothing_are_left_out():
    assert "measured" in layers_table("a", MEASURED).render()
    cycles = layers_table("a", CYCLES).render()
    assert "measured" not in cycles and "times in cycles, modelled by llvm-mca" in cycles
    untimed = replace(CYCLES, rows=tuple(replace(row, predicted=None) for row in CYCLES.rows))
    assert "times" not in layers_table("a", untimed).render()
    assert "accuracy" not in variants_table([W8A8]).render() and "accuracy" in variants_table([W8A8, W4A4]).render()


def test_layers_of_the_same_kernel_bits_and_work_are_one_row():
    lines = layers_table("a", MEASURED).render().splitlines()
    assert len(lines) == 5  # title, headings, the picture, three layers in one, all layers
    assert lines[3].split()[-4:] == ["w4a4", "7.08", "~36.6", "36.4"] and "+2  Winograd 4x2 of bytes  " in lines[3]
    assert lines[4].split() == ["all", "layers", "7.08", "36.7", "36.5"]
    whole = layers_table("a", MEASURED, verbose=True).render(None).splitlines()
    assert len(whole) == 7 and WINOGRAD in whole[3]


def test_variants_with_the_same_result_are_one_row():
    rungs = [replace(EQUAL, variant=name) for name in ("a", "b", "c")]
    failed = replace(EQUAL, variant="d", differing=3)
    absent = replace(EQUAL, variant="d", answers="x86:avx-vnni", pictures=0, logits=0, same_class=0)
    lines = ladder_table([*rungs, failed, absent]).render().splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["a +2", "d", "d"]
    assert [line.rsplit("  ", 1)[1] for line in lines[2:]] == ["equal", "FAILED", "not run"]
    assert len(ladder_table([*rungs, failed], verbose=True).rows) == 4


def test_each_rung_says_what_it_demands():
    assert (EQUAL.demand, EQUAL.result, EQUAL.is_indicative) == ("bit for bit", "equal", False)
    assert (FOREIGN.demand, FOREIGN.result) == ("6 classes", "indicative")
    assert FOREIGN.holds and FOREIGN.is_indicative
    assert ladder_table([FOREIGN]).rows == (("w8a8", "onnxruntime", "6 classes", "8", "3,979", "1", "indicative"),)


def test_differing_logits_are_told_in_plain_words():
    """How many, how far, how many classes, where they begin, and why."""
    meaning = meaning_of_differences(FOREIGN)
    assert meaning.startswith(
        "w8a8: 3,979 of 8,000 logits differ from onnxruntime's, by 12 steps at most where they span 8,934; 1 of 8 "
        "pictures gets another class. The first layer that differs is second: 20 of 1,000 codes, by 1 at most. Fed with"
    )
    assert "every picture gets the same class" in meaning_of_differences(replace(FOREIGN, same_class=8))
    assert meaning_of_differences(EQUAL) == "" and meaning_of_differences(replace(FOREIGN, differing=0)) == ""
    assert "onnxruntime rounds some sums otherwise" in meaning_of_differences(replace(FOREIGN, layers=()))


def test_layers_that_differ_come_worst_first():
    rows = differences_table(FOREIGN).rows
    assert [row[0] for row in rows] == [LONG, "second"] and rows[1][1:] == ("1,000", "20", "1", "2", "1")
    misread = LayerDifference("misread", 1000, 1, 3, 1, 3)
    assert differences_table(replace(FOREIGN, layers=(*LAYERS, misread))).rows[0][0] == "misread"
    many = replace(FOREIGN, layers=LAYERS[1:2] * 9)
    assert (len(differences_table(many).rows), len(differences_table(many, verbose=True).rows)) == (5, 9)


def test_a_rung_that_does_not_hold_is_an_error():
    EQUAL.require()
    FOREIGN.require()
    with pytest.raises(VerificationError, match="w8a8: x86:avx2 = reference: expected equal logits, 3 of 40 differ"):
        replace(EQUAL, differing=3).require()
    wrong = replace(FOREIGN, same_class=5)
    with pytest.raises(VerificationError, match="expected the same class of 6 pictures, 3979 .* 5 have the same class"):
        wrong.require()
    assert wrong.result == "FAILED"


def test_a_layer_that_rounding_does_not_explain_is_an_error():
    """Even where every picture gets the right class."""
    misread = LayerDifference("misread", 1000, 1, 3, 1, 3)
    wrong = replace(FOREIGN, same_class=8, layers=(*LAYERS, misread))
    with pytest.raises(
        VerificationError, match="layer misread alone is 3 codes from onnxruntime's where rounding expl"
    ):
        wrong.require()
    assert "misread is not computed as the file says" in meaning_of_differences(wrong)


def test_a_layer_whose_input_the_file_leaves_unquantized_is_told():
    near = LayerDifference("near", 1000, 1, 3, 1, 3, 1, 15)
    rung = replace(FOREIGN, layers=(*LAYERS, near))
    rung.require()
    assert "layer near is up to 3 steps from onnxruntime: before it the file leaves" in meaning_of_differences(rung)
    assert not near.is_misread and replace(near, alone_largest=16).is_misread


def test_variants_of_equal_bits_are_one_row():
    lines = variants_table([W8A8, W4A4, PRIVATE]).render().splitlines()
    assert lines[2].split() == ["w8a8", "12.5", "1.000", "-", "108.9", "us", "9,183"]
    assert lines[3].split() == ["w4a4", "+1", "12.5", "0.277", "80.0..82.3%", "71.0", "us", "14,085"]
    assert len(variants_table([W8A8, W4A4, PRIVATE], verbose=True).rows) == 3


def test_levels_of_the_same_kernels_share_a_column():
    two = replace(MEASURED, levels=("x86:avx512-vnni", "x86:avx-vnni"), network_us=50.0)
    table = variants_table([replace(W4A4, tables=(two, MEASURED))])
    assert [column.heading for column in table.columns[4:6]] == ["avx512-vnni +1", "avx2"]
    assert table.rows[0][4:6] == ("50.0 us", "71.0 us")


def test_the_last_line_sums_it_up():
    report = BuildReport(Path("bundles/a"), "x86:avx2", 2_770_000, (W8A8, W4A4, PRIVATE), (EQUAL,))
    assert summary(report) == (
        "bundle: bundles/a, 2.77 MB; one picture: w8a8 108.9 us (9,183 per second), w4a4 +1 71.0 us (14,085 per second)"
    )
    arm = replace(W4A4, tables=(CYCLES,))
    assert summary(replace(report, variants=(arm,))).endswith("one picture: w4a4 ~5.64 M cycles (cortex-a72)")
    assert summary(replace(report, variants=(PRIVATE,))) == "bundle: bundles/a, 2.77 MB"
    many = tuple(replace(W8A8, name=f"v{k}", code_of=f"v{k}", macs=k) for k in range(9))
    assert summary(replace(report, variants=many)).count("per second") == 2


@pytest.mark.parametrize("verbose, tables", [(False, 1), (True, 2)])
def test_one_table_of_layers_for_each_kind_of_code(verbose, tables):
    lines: list[str] = []
    printer = BuildPrinter(verbose, lines.append)
    printer.on_compile("w4a4", "w4a4", 1, 2)
    printer.on_compile("same", "w4a4", 2, 2)
    printer.on_times([W4A4, replace(W4A4, name="same", tables=(MEASURED,) if verbose else ())])
    assert sum(line.startswith("layers of ") for line in lines) == tables
    assert lines[0] == "1 of 2: w4a4" and ("2 of 2: same, the code of w4a4" in lines) == verbose
