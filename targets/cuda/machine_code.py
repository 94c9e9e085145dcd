"""What ptxas made of the kernels in a library: their instructions, as cuobjdump shows them."""

import re
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

from targets import TargetError
from targets.library import llvm

_OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


def cuobjdump() -> str:
    """Path of cuobjdump: PATH, the CUDA toolkit, or the Python package; raises TargetError where there is none."""
    packages = Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/bin/cuobjdump")
    places = [Path("/usr/local/cuda/bin/cuobjdump"), *sorted(packages)]
    path = shutil.which("cuobjdump") or next((str(p) for p in places if p.exists()), None)
    if path is None:
        raise TargetError(
            "expected cuobjdump in PATH, /usr/local/cuda/bin or the packages nvidia-cuda-cuobjdump and "
            "nvidia-cuda-nvdisasm, found none"
        )
    return path


def instructions(library: Path, arch: int) -> dict[str, Counter]:
    """Kernel -> how often each instruction, such as IMMA.16832.U8.S8, stands in its machine code for sm_`arch`."""
    text = llvm.run([cuobjdump(), "-sass", "-arch", f"sm_{arch}", str(library)])
    parts = re.split(r"^\s*Function : (\w+)\s*$", text, flags=re.MULTILINE)[1:]
    return {name: Counter(_OPCODE.findall(body)) for name, body in zip(parts[::2], parts[1::2], strict=True)}
