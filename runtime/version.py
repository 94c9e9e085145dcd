"""The version of bitgrade, written into bundles, cost tables and the installed package."""

VERSION = "0.1.0"
