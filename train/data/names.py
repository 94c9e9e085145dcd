"""Names of data sets and degradation families, which settings are checked against before anything heavy is imported.

A degradation family is one way in which pictures lose quality, such as noise, blur or JPEG; a severity, 1 to 5, says
how much of it a picture has lost. "clean" is the family without any loss.
"""

DATASETS = ("digits", "cifar10")  # known by name; "folder:PATH" is a user's own
FOLDER = "folder:"
DATA_SIDE = 32  # pixels: the side of the pictures of digits and cifar10

# In the order in which reports show them. Their constants are in degradations.py.
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
# Tested with, never trained with. Each is a step further from the others: shot noise is noise of another law, motion
# blur is blur with a direction, and pixelation has no relative at all, so only the selector's fallback can treat it.
HELD_OUT = ("shot_noise", "motion_blur", "pixelate")
