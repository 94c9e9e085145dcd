"""Named presets: sets of options that go together, over the defaults and under the configuration file and the flags."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # A first look in minutes: do the pictures load, does the network learn anything, does the bundle build?
    "quick": {"bits": "8,4", "epochs": 3, "fp_epochs": 3, "test_pictures": 300, "selector_pictures": 500},
    # A family with private variants and a cascade, which is what bitgrade is for.
    "standard": {"bits": "8,4,2", "epochs": 12, "fp_epochs": 20, "private_epochs": 6, "escalate": True},
    # The recipe of the trained runs in train/zoo, for networks that start from random weights.
    "best": {
        "bits": "8,4,3,2",
        "epochs": 20,
        "fp_epochs": 60,
        "private_epochs": 16,
        "escalate": True,
        "selector_pictures": 0,
        "test_pictures": 0,
    },
}
MEANINGS = {
    "quick": "a first look in minutes",
    "standard": "a family with private variants and a cascade",
    "best": "the recipe of the trained runs that come with bitgrade; takes hours",
}
