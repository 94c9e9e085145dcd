"""Explains the words of a report before it uses them."""

from collections.abc import Collection

from train.report.compare import CLEAN, HELD_OUT, TRAINED
from train.report.tables import STAR
from train.settings.bits import COSTS

# arm -> what it is, in the order in which reports show them
ARM_WORDS = {
    "fp32": "the float network of full precision that all variants were made from; all else is computed in the integer "
    "arithmetic of the exported files.",
    "static": "one variant for every picture: the one that got most right within the budget on validation pictures.",
    "private": "an ablation: the bits of the static variant for every picture, but a private variant of them (an "
    "expert) for each kind of picture quality.",
    "bits": "an ablation: variants of different bits by quality, without private variants.",
    "cascade": "an ablation: a cheap variant for every picture first, and a dearer one too where the answer of the "
    "first is unsure; quality does not count.",
    "adaptive": "all together, as exported: the selector picks a variant by the picture's quality, and a dearer one "
    "runs too where the run has a cascade and the answer is unsure.",
    "random": "a control: variants drawn in adaptive's overall shares, whatever the picture, as an expectation. A "
    "selector that is not above it chooses no better than chance.",
    "shuffled": "a control: adaptive with the quality of other pictures; the features of all test pictures and views "
    "together are dealt out anew.",
    "oracle": "a bound: one variant for each true family and severity within the budget. It knows these, not the "
    "label; its variants too are picked on validation pictures, and families never trained with get the static one.",
}


def words(arms: Collection[str], held_out: Collection[str], cost: str, pictures: int) -> list[str]:
    """Returns the lines of the section.

    arms: those that the report shows; held_out: families never trained with; cost: what the run's costs count;
    pictures: how many test pictures there are of each family and severity.
    """
    stderr = 100 * 0.5 / pictures**0.5
    lines = [
        "## Words",
        "",
        "* **variant**: one integer network of the family; `w4a8` has 4-bit weights and 8-bit activations.",
        "* **selector**: the small integer network that picks a variant from a picture's quality: features such as "
        "noise, detail and blockiness, which also tell **kinds of quality** apart.",
        f"* **cost**: {COSTS[cost]}, relative to 8-bit weights and activations everywhere; a mean over pictures. "
        "**budget**: the mean cost that a picture may have.",
        "* **family** and **severity** of pictures: how they are degraded (noise, blur, ...), and how strongly, 1 to 5;"
        f" `{CLEAN}` pictures are not.",
        f"* **{TRAINED}**: those that variants and selector were trained with."
        + (f" **{HELD_OUT}**: those never seen in training, marked{STAR}." if held_out else ""),
    ]
    lines += [f"* **{arm}**: {meaning}" for arm, meaning in ARM_WORDS.items() if arm in arms]
    lines += [
        "* **static variants at equal cost**: the straight line through the corners of their Pareto front in cost and "
        "accuracy; giving each picture to one of two neighbours at random reaches every point of it.",
        f"* **points**: percentage points of accuracy. Every number is of {pictures} test pictures per family and "
        f"severity: one point of a curve has a standard error of up to {stderr:.1f} points.",
    ]
    return [*lines, ""]
