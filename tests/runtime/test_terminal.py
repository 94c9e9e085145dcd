"""Commands at a terminal: of few letters, with a full disk or no reader behind it, and at Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def shell(words: str, bundle, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        f"{sys.executable} -m runtime {words.format(bundle)}",
        shell=True,
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, **environment},
    )


def test_a_terminal_of_few_letters(small_bundle, tmp_path):
    name = tmp_path / "häßlich.ppm"
    name.write_bytes(b"P6\n4 3\n255\n" + bytes([220] * 36))
    done = shell(f"infer {{}} {name}", small_bundle, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "h\\xe4\\xdflich.ppm" in done.stdout and not done.stderr


def test_a_full_disk_behind_the_output(small_bundle):
    done = shell("info {} > /dev/full", small_bundle)
    assert done.returncode == 2 and done.stderr == "error: [Errno 28] No space left on device\n"


def test_ctrl_c(small_bundle):
    done = subprocess.Popen(
        [sys.executable, "-m", "runtime", "bench", str(small_bundle), "--calls", "100000000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while "bitgrade.so" not in Path(f"/proc/{done.pid}/maps").read_text():  # until it has loaded its libraries
        assert done.poll() is None
        time.sleep(0.1)
    done.send_signal(signal.SIGINT)
    assert done.communicate()[1] == "interrupted\n" and done.returncode == 130


def test_a_reader_that_has_seen_enough(small_bundle):
    """As `| head` does: the pipe is closed while the command writes."""
    done = subprocess.Popen(
        [sys.executable, "-m", "runtime", "info", str(small_bundle)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done.stdout.close()
    assert done.stderr.read() == "" and done.wait() == 0
