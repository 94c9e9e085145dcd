"""An arm64 Python with numpy and apache-tvm-ffi, run by QEMU's user mode: what a board runs, without a board.

Built once into a cache folder ($BITGRADE_CACHE, else ~/.cache/bitgrade) from the distribution's arm64 packages and
PyPI's aarch64 wheels; needs apt and dpkg, neither root nor a second architecture in dpkg.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CPUS = {"cortex-a72": "cortex-a72", "cortex-a76": "cortex-a76", "cortex-a78ae": "cortex-a76"}  # QEMU's models
_FEATURES = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
    "cortex-a78ae": (
        "0xd42",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
_PYTHON = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1")
_WHEELS = ("numpy<2.3", "apache-tvm-ffi==0.1.14.post1", "typing-extensions")
_RECIPE = 2  # goes up when what is in the box changes


class BoxError(RuntimeError):
    """The box cannot be made here; the message says which step failed and how."""


def run(
    args: list[str], cpu: str = "cortex-a72", path: Path | None = None, timeout: float = 600
) -> subprocess.CompletedProcess:
    """Runs `python ARGS` in the box on an emulated `cpu`, with `path` (a checkout, say) on PYTHONPATH; output as text.

    Paths in args must be absolute. Raises BoxError where the box cannot be made, subprocess.TimeoutExpired.
    """
    if cpu not in CPUS:
        raise BoxError(f"expected a processor among {', '.join(CPUS)}, got {cpu!r}")
    box = make()
    python = max(box.glob("root/usr/bin/python3.*[0-9]"))
    search = ":".join(str(p) for p in (path, box / "site") if p)
    command = [
        str(box / "qemu"),
        "-cpu",
        CPUS[cpu],
        "-L",
        str(box / "roots" / cpu),
        "-E",
        f"PYTHONPATH={search}",
        "-E",
        "OPENBLAS_NUM_THREADS=1",
        "-E",
        "PYTHONDONTWRITEBYTECODE=1",
        str(python),
        *args,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def make() -> Path:
    """The box's folder, built first if it is not there yet (about a minute, 80 MB of downloads); raises BoxError."""
    cache = Path(os.environ.get("BITGRADE_CACHE") or Path.home() / ".cache" / "bitgrade").resolve()
    box = cache / f"arm64-python-{_RECIPE}"
    if box.exists():
        return box
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise BoxError(f"expected {tool} on this machine (Debian or Ubuntu), found none")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="arm64-python-") as folder:
        work = Path(folder)
        _emulator(work)
        _python(work)
        _roots(work)
        shutil.rmtree(work / "apt", ignore_errors=True)
        try:
            work.rename(box)
        except OSError as error:  # another process was quicker
            if not box.exists():
                raise BoxError(f"{box}: {error}") from error
        else:
            work.mkdir()  # for TemporaryDirectory to remove
    return box


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        raise BoxError(
            f"expected exit code 0, got {done.returncode} from: {' '.join(command)}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def _apt(state: Path, arch: str) -> list[str]:
    """An apt-get of its own for one architecture, which knows no installed package; its lists are fetched."""
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Acquire::Languages": "none",
        "APT::Install-Recommends": "false",
        "Debug::NoLocking": "true",
    }
    if os.geteuid() == 0:
        options["APT::Sandbox::User"] = "root"
    apt = ["apt-get", "-qq", "-y", *(word for k, v in options.items() for word in ("-o", f"{k}={v}"))]
    _run([*apt, "update"])
    return apt


def _emulator(work: Path) -> None:
    installed = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if installed:
        shutil.copy(installed, work / "qemu")
        return
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    apt = _apt(work / "apt" / "host", arch)
    _run([*apt, "download", "qemu-user-static"], cwd=work / "apt")
    package = next((work / "apt").glob("qemu-user*.deb"))
    _run(["dpkg", "-x", str(package), str(work / "apt" / "qemu")])
    shutil.move(work / "apt" / "qemu" / "usr" / "bin" / "qemu-aarch64-static", work / "qemu")


def _python(work: Path) -> None:
    _run([*_apt(work / "apt" / "box", "arm64"), "install", "--download-only", *_PYTHON])
    (work / "root").mkdir()
    for package in sorted((work / "apt" / "box" / "cache" / "archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(work / "root")])
    version = max((work / "root" / "usr" / "bin").glob("python3.*[0-9]")).name.removeprefix("python")
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(work / "site"),
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            version,
            "--implementation",
            "cp",
            "--platform",
            "manylinux_2_28_aarch64",
            "--platform",
            "manylinux2014_aarch64",
            *_WHEELS,
        ]
    )


def _roots(work: Path) -> None:
    """One view of the root per processor, each with the /proc/cpuinfo of its board (QEMU 7 shows the host's).

    It has as many entries as the host has processors, which /sys still tells: programs take the one for the other.
    """
    for cpu, (part, features) in _FEATURES.items():
        root = work / "roots" / cpu
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "cpuinfo").write_text(
            "".join(
                f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
                f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 3\n\n"
                for number in range(os.cpu_count() or 1)
            )
        )
        for entry in (work / "root").iterdir():
            if entry.name != "proc":
                (root / entry.name).symlink_to(Path("..") / ".." / "root" / entry.name)
