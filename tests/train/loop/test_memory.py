"""Freed memory stays with the process: glibc's own count of what it holds, in a process of its own for each choice."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BLOCK = 24 << 20  # bytes; with glibc's own threshold a mapping of its own, handed back when freed
THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}  # glibc's own, and not risen by what imports have freed

ASKED = """
import ctypes, json, sys
import torch
from train.loop.allocator import keep_freed_memory

class Info(ctypes.Structure):  # struct mallinfo2 of glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "mapped", "usmblks",
                                                     "fsmblks", "used", "free", "top")]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = mallinfo2()
block = torch.empty(int(sys.argv[2]), dtype=torch.uint8)
alive = mallinfo2()
del block
freed = mallinfo2()
print(json.dumps({name: [getattr(info, name) for info in (before, alive, freed)] for name in ("arena", "mapped")}))
"""


def held(choice: str) -> dict[str, list[int]]:
    """Bytes of the heap and of mappings before a large block is made, while it is alive and after it is freed."""
    root = str(Path(__file__).parents[3])
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", ASKED, choice, str(BLOCK)],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | THRESHOLD,
        ).stdout
    )


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts by mallinfo2, of glibc 2.33 and later")
def test_a_freed_block_stays_in_the_heap():
    kept, left = held("keep"), held("leave")
    assert len(set(kept["mapped"])) == 1 and kept["arena"][1] == kept["arena"][2] >= kept["arena"][0]
    assert left["mapped"][1] >= left["mapped"][0] + BLOCK and left["mapped"][2] == left["mapped"][0]
