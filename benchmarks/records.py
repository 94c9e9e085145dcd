"""The JSON file of a benchmark: a list of flat records, complete or not there at all."""

import json
import os
from pathlib import Path


def write_records(path: Path, records: list[dict]) -> None:
    """Writes under a temporary name, then renames."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(records, indent=1) + "\n")
    os.replace(partial, path)
