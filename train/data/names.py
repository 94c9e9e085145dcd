"""The names of data sets and degradation families, which a command line is checked against before anything loads."""

DATASETS = ("digits", "cifar10")  # that bitgrade knows by name; "folder:PATH" is a user's own
FOLDER = "folder:"
DATA_SIDE = 32  # pixels: the side of the pictures of digits and cifar10

# Degradation families, in the order in which reports show them. The first nine have the constants of degradations.py.
DEGRADATIONS = (
    "gaussian_noise",
    "shot_noise",
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "jpeg",
    "low_light",
    "contrast",
    "pixelate",
)
FAMILIES = ("clean", *DEGRADATIONS)
# Each held-out family is a step further from what training sees: shot noise is noise of another law, motion blur is
# blur with a direction, and pixelation has no relative at all, so only the selector's fallback can treat it well.
HELD_OUT = ("shot_noise", "motion_blur", "pixelate")
