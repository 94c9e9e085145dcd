"""The version of bitgrade, which bundles, tables of costs and the installed package carry."""

VERSION = "0.1.0"
