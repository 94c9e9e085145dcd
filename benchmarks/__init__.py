"""Measurements: each module prints a table, and writes it as flat records with `--json FILE`."""
