"""Costs measured over TVM's RPC, from a server on this machine in the place of a board."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from targets import find
from targets.costs.shapes import Shape

tvm = pytest.importorskip("tvm")

from compile import profile
from compile.times.machine import missing_features

pytestmark = pytest.mark.slow

X86 = find("x86:avx2")
LAYERS = {
    "conv 3x3/2 32x32x16 -> 16x16x32 skip border 0+1": {"w4a4", "w8a8"},
    "linear 1x1/1 1x1x64 -> 1x1x10": {"w8a8"},
}


@pytest.fixture
def rpc_server():
    """HOST:PORT of a server on this machine; it and the workers it starts end with the test."""
    for name in ("psutil", "cloudpickle"):
        pytest.importorskip(name, reason=f"RPC needs {name}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tvm.exec.rpc_server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--port-end",
        str(port + 1),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(1200):  # it loads TVM twice
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # the workers are of its group, and would outlive it
        server.wait()


@pytest.mark.skipif(bool(missing_features(X86)), reason=f"this machine lacks {missing_features(X86)}")
def test_times_come_from_the_board(rpc_server, tmp_path):
    wanted = {Shape.parse(text): bits for text, bits in LAYERS.items()}
    machine = profile.machine_for(X86, rpc_server)
    costs = profile.measure_costs(wanted, X86, machine, tmp_path / "c.json")
    assert {s: set(e) for s, e in costs.entries.items()} == wanted
    assert all(e.time > 0 for entries in costs.entries.values() for e in entries.values())
    assert costs.machine == f"board at {rpc_server}"
