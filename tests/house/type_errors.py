"""Holds type errors to type_errors.json, which may only shrink: `python -m tests.house.type_errors [--write]`.

runtime/ and targets/reference/ are strict and have none (pyproject.toml). --write lowers the file to today's counts.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
RATCHET = Path(__file__).with_suffix(".json")
ERROR = re.compile(r"^(?P<path>[^:]+):\d+: error: ")


def checked() -> tuple[dict[str, int], str]:
    """Errors by file, and what mypy printed. Raises RuntimeError where mypy cannot run."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        raise RuntimeError(f"expected mypy to run, got: {done.stdout}{done.stderr}")
    matches = (ERROR.match(line) for line in done.stdout.splitlines())
    return dict(sorted(Counter(match["path"] for match in matches if match).items())), done.stdout


def allowed() -> dict[str, int]:
    """How many errors each file may have; a file that is not there has none."""
    return json.loads(RATCHET.read_text())


def excess(counts: dict[str, int], limits: dict[str, int]) -> dict[str, int]:
    """Files with more errors than they may have, and how many more."""
    return {path: n - limits.get(path, 0) for path, n in counts.items() if n > limits.get(path, 0)}


def main(arguments: list[str] | None = None) -> int:
    """0 where no file has more errors than it may have; their errors are printed otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.house.type_errors", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="take the allowed counts down to today's")
    write = parser.parse_args(arguments).write
    counts, text = checked()
    limits = allowed()
    more = excess(counts, limits)
    if more:
        print("\n".join(line for line in text.splitlines() if line.partition(":")[0] in more))
    print(f"{sum(counts.values())} type errors in {len(counts)} files; {sum(limits.values())} are allowed")
    if write and not more:
        RATCHET.write_text(json.dumps(counts, indent=1) + "\n")
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
