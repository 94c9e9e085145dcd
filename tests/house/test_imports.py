"""Every import must follow an arrow of the table below, which is the architecture."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "targets", "compile", "train", "benchmarks")  # each imports only what stands before it
MODULES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
STANDARD = set(sys.stdlib_module_names) - set(PACKAGES)

# Room (a folder, or a module that stands alone in a top-level folder) -> what its modules may import beside the
# standard library and each other: rooms of ours, then packages of others.
ARROWS = {
    "runtime.fields": "",
    "runtime.files": "",
    "runtime.terminal": "runtime.version",
    "runtime.version": "",
    "runtime.abi": "numpy",
    "runtime.scores": "numpy",
    "runtime.pictures": "numpy PIL",
    "runtime.choice": "runtime.fields numpy",
    "runtime.machine": "runtime.fields runtime.abi numpy",
    "runtime.bundle": "runtime.choice runtime.machine runtime.scores runtime.fields runtime.abi numpy",
    "runtime.execution": "runtime.bundle runtime.choice runtime.machine runtime.fields runtime.abi numpy tvm_ffi",
    "runtime.policy": "runtime.bundle runtime.choice runtime.fields",
    "runtime.prediction": "runtime.choice runtime.scores numpy",
    "runtime.engine": "runtime.prediction runtime.scores runtime.policy runtime.execution runtime.bundle "
    "runtime.pictures numpy",
    "runtime": "runtime.engine runtime.prediction runtime.bundle runtime.fields runtime.version",
    "runtime.commands": "runtime.engine runtime.execution runtime.bundle runtime.machine runtime.choice "
    "runtime.pictures numpy",
    "runtime.tables": "runtime.commands runtime.choice",
    "runtime.json_output": "runtime.files runtime.terminal",
    "runtime.arguments": "runtime.bundle runtime.pictures runtime.fields runtime.terminal",
    "runtime.__main__": "runtime.arguments runtime.tables runtime.json_output runtime.commands runtime.engine "
    "runtime.pictures runtime.fields runtime.terminal",
    "targets": "",
    "targets.reference": "numpy",
    "targets.costs": "targets.reference runtime.files targets.kernel targets.schedule numpy",
    "targets.schedule": "targets.kernel targets.reference",
    "targets.tables": "targets.kernel targets.reference numpy",
    "targets.windows": "targets.kernel targets.reference numpy tvm",
    "targets.kernel": "targets.reference numpy",
    "targets.library": "targets targets.kernel targets.reference runtime.abi numpy tvm tvm_ffi",
    "targets.family": "targets targets.kernel numpy",
    "targets.cpu": "targets.kernel targets.reference targets.tables targets.windows numpy tvm",
    "targets.cpu.look": "runtime.abi runtime.choice runtime.pictures numpy tvm",
    "targets.cpu.winograd": "targets.cpu targets.kernel targets.reference numpy tvm",
    "targets.x86": "targets targets.cpu targets.cpu.look targets.cpu.winograd targets.library targets.kernel "
    "targets.reference runtime.abi targets.family targets.tables numpy tvm tvm_ffi",
    "targets.arm": "targets targets.arm.emulation targets.cpu targets.cpu.look targets.cpu.winograd targets.library "
    "targets.kernel targets.reference targets.family targets.tables numpy tvm",
    "targets.arm.emulation": "targets targets.library numpy unicorn",
    "targets.cuda": "targets targets.cuda.emulation targets.cpu.look targets.library targets.kernel targets.reference "
    "targets.family targets.tables targets.windows numpy tvm tvm_ffi",
    "targets.cuda.emulation": "targets numpy tvm_ffi",
    "compile.forms": "numpy onnx",
    "compile.rewriting": "targets.reference numpy",
    "compile.qdq": "compile.forms compile.rewriting targets.reference numpy onnx google",
    "compile.tflite": "compile.qdq compile.rewriting targets.reference numpy tflite flatbuffers ai_edge_litert",
    "compile.source": "compile.forms compile.qdq compile.tflite targets.reference runtime.bundle runtime.fields "
    "runtime.files runtime.scores numpy",
    "compile.lowering": "targets targets.kernel targets.reference runtime.abi targets.family targets.schedule numpy",
    "compile.bundle": "compile.lowering compile.source targets targets.cpu.look runtime.bundle runtime.choice "
    "runtime.pictures runtime.machine runtime.files runtime.abi targets.family numpy tvm_ffi",
    "compile.times": "compile.lowering targets targets.costs targets.library targets.kernel targets.reference "
    "runtime.machine runtime.abi targets.family numpy tvm tvm_ffi",
    "compile.calibrate": "compile.qdq targets.reference runtime.pictures runtime.version numpy onnx onnxruntime "
    "google timm",
    "compile.settings": "compile.bundle compile.calibrate compile.forms compile.qdq targets",
    "compile.command_line": "compile.settings compile.calibrate compile.forms compile.qdq targets targets.costs "
    "targets.reference runtime.machine runtime.terminal",
    "compile.ladder": "compile.qdq targets.reference numpy onnx onnxruntime",
    "compile.verify": "compile.bundle compile.ladder compile.lowering compile.source compile.tflite targets.reference "
    "numpy onnx google",
    "compile.dump": "compile.calibrate compile.lowering compile.source compile.tflite targets targets.reference numpy "
    "onnx",
    "compile.report": "compile.calibrate compile.source compile.times compile.verify",
    "compile.text_table": "",
    "compile.page": "compile.ladder compile.report compile.tables compile.times compile.verify runtime.version",
    "compile.tables": "compile.ladder compile.report compile.text_table compile.times compile.verify",
    "compile.printing": "compile.calibrate compile.tables compile.report compile.source compile.text_table "
    "compile.times compile.verify runtime.terminal",
    "compile.stages": "compile.bundle compile.dump compile.lowering compile.report compile.settings compile.source "
    "compile.times compile.verify runtime.version targets numpy",
    "compile.build": "compile.calibrate compile.page compile.stages compile.printing compile.report compile.dump "
    "compile.command_line compile.settings compile.bundle compile.source runtime.terminal",
    "compile.profile": "compile.command_line compile.settings compile.bundle compile.lowering compile.source "
    "compile.times targets targets.costs targets.kernel targets.reference runtime.terminal "
    "runtime.version rich",
    "train.data": "runtime.pictures runtime.files numpy torch rich PIL albumentations cv2 sklearn",
    "train.network": "runtime.files numpy torch safetensors",
    "train.settings": "train.data train.network targets runtime.files runtime.terminal targets.reference rich tomli "
    "tomli_w",
    "train.bits": "train.network targets targets.costs runtime.choice runtime.files targets.reference torch",
    "train.loop": "train.bits train.settings train.network train.data runtime.files torch rich safetensors",
    "train.kinds": "train.loop train.bits train.network train.data runtime.choice numpy torch sklearn",
    "train.search": "train.kinds train.loop train.bits train.settings train.network train.data runtime.choice numpy "
    "torch scipy",
    "train.phases": "train.search train.kinds train.loop train.bits train.settings train.network train.data torch",
    "train.integers": "train.bits train.network compile.qdq targets.reference runtime.files compile.source numpy "
    "torch onnx",
    "train.evidence": "train.integers train.kinds train.bits train.settings train.network train.data "
    "targets.reference runtime.choice runtime.files numpy torch",
    "train.choice": "train.evidence runtime.choice compile.source numpy torch",
    "train.report.plots": "train.choice train.evidence train.bits compile.source runtime.files numpy matplotlib",
    "train.report": "train.choice train.evidence train.kinds train.bits train.settings runtime.files "
    "runtime.terminal compile.source train.report.plots numpy scipy rich matplotlib",
    "train.finish": "train.report train.choice train.evidence train.integers train.loop train.bits train.settings "
    "train.network train.data targets.reference compile.source numpy torch rich",
    "train.adapt": "train.report train.choice train.evidence train.integers train.kinds train.loop train.bits "
    "train.settings train.network train.data compile.calibrate compile.qdq compile.source targets.reference "
    "runtime.choice runtime.pictures runtime.files runtime.terminal runtime.version numpy torch onnx google rich",
    "train.recost": "train.report train.choice train.evidence train.loop train.bits train.settings train.network "
    "runtime.files runtime.terminal compile.source",
    "train.learn": "runtime.files train.data train.evidence train.kinds train.loop train.phases train.settings "
    "train.bits train.network numpy rich torch",
    "train.run": "train.finish train.loop train.settings train.data runtime.terminal train.learn torch",
    "benchmarks": "train.* compile.* targets.* runtime.* numpy torch torchvision timm tvm tvm_ffi onnx onnxruntime "
    "openvino nncf rich matplotlib PIL",
}
# modules held to less than their room
ONLY = {
    "compile/bundle/packing.py": "numpy",
    # another Python may run it
    "benchmarks/published/exports.py": "benchmarks.published.photos numpy torch torchvision timm onnxruntime",
    # on a GPU's machine there are numpy, torch and tvm_ffi alone
    "benchmarks/cuda/records.py": "runtime.files",
    "benchmarks/cuda/case.py": "numpy",
    "benchmarks/cuda/nvcc.py": "",
    "benchmarks/cuda/jobs.py": "benchmarks.cuda.case benchmarks.cuda.records",
    "benchmarks/cuda/results.py": "benchmarks.cuda.case benchmarks.cuda.jobs benchmarks.cuda.records",
    "benchmarks/cuda/everything.py": "benchmarks.cuda.case benchmarks.cuda.jobs benchmarks.cuda.nvcc "
    "benchmarks.cuda.results runtime.terminal torch",
    "benchmarks/cuda/checks.py": "benchmarks.cuda.case benchmarks.cuda.records runtime.* numpy torch tvm_ffi",
    "benchmarks/cuda/peer.py": "benchmarks.cuda.case torch",
    "benchmarks/cuda/times.py": "benchmarks.cuda.case benchmarks.cuda.checks benchmarks.cuda.peer "
    "benchmarks.cuda.records runtime.terminal numpy torch",
}
# module -> packages that it imports inside a function only
LAZY = {
    "train/run.py": {"torch"},
    "runtime/execution/ffi.py": {"tvm_ffi"},
    "runtime/pictures/pillow.py": {"PIL"},
    "benchmarks/cuda/everything.py": {"torch"},
    "compile/tflite/file.py": {"tflite"},
    "compile/tflite/metadata.py": {"flatbuffers"},
    "compile/tflite/peer.py": {"ai_edge_litert"},
    "benchmarks/published/exports.py": {"torch", "torchvision", "timm", "onnxruntime"},
}


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(p): p for p in MODULES}


def room(path: Path) -> str:
    """The folder that a module stands in; a module right in a top-level folder is a room of its own."""
    if path.parts[0] == "benchmarks":
        return "benchmarks"
    return dotted(path) if len(path.parts) == 2 else ".".join(path.parts[:-1])


def imports(path: Path) -> set[tuple[str, bool]]:
    """(dotted name, whether the import runs when the module does) of everything a module imports."""
    tree, names = ast.parse((ROOT / path).read_text()), set()
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        now = id(node) not in inside
        if isinstance(node, ast.Import):
            names |= {(alias.name, now) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the arrows; write the package's name"
            names |= {(submodule(node.module, alias.name), now) for alias in node.names}
    return names


def submodule(module: str, name: str) -> str:
    """`from a import b` imports a.b where that is a module of ours, else just a."""
    return f"{module}.{name}" if f"{module}.{name}" in NAMES else module


def allowed(name: str, may: set[str]) -> bool:
    top = name.partition(".")[0]
    place = room(NAMES[name]) if name in NAMES else top
    return top in STANDARD or not may.isdisjoint({name, place, f"{top}.*"})


def test_every_room_has_its_arrows():
    empty = {p for p in MODULES if not (ROOT / p).read_text()}
    assert {room(p) for p in MODULES if p not in empty} == set(ARROWS)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_arrows(path):
    may = set(ONLY.get(str(path), f"{ARROWS.get(room(path), '')} {room(path)}").split())
    for name, _ in imports(path):
        assert allowed(name, may), f"{path} imports {name}; it may import {sorted(may)} and the standard library"


@pytest.mark.parametrize("place", ARROWS)
def test_no_arrow_is_left_over(place):
    """What nobody needs any more goes from the table, so that it shows the architecture as it is."""
    taken = {n for p in MODULES if room(p) == place for n, _ in imports(p)}
    taken = {room(NAMES[n]) if n in NAMES else n.partition(".")[0] for n in taken}
    taken |= {f"{n.partition('.')[0]}.*" for n in taken}
    assert not set(ARROWS[place].split()) - taken


def test_rooms_and_folders_make_no_circle():
    """Rooms can be put in an order in which each imports only those before it, and so can top-level folders."""
    done: set[str] = set()
    rooms = {name: {m for m in may.split() if m in ARROWS} for name, may in ARROWS.items()}
    while ready := [name for name in rooms if name not in done and rooms[name] <= done]:
        done |= set(ready)
    assert not set(rooms) - done, f"these rooms import each other: {sorted(set(rooms) - done)}"
    for name, may in ARROWS.items():
        tops = {m.partition(".")[0] for m in may.split()} & set(PACKAGES)
        assert all(PACKAGES.index(top) <= PACKAGES.index(name.partition(".")[0]) for top in tops), name


def test_files_make_no_circle():
    graph = {dotted(p): {n for n, now in imports(p) if n in NAMES and now} for p in MODULES}
    done: set[str] = set()
    while ready := [m for m in graph if m not in done and graph[m] - {m} <= done]:
        done |= set(ready)
    assert not set(graph) - done, f"these files import each other: {sorted(set(graph) - done)}"


@pytest.mark.parametrize("path", [p for p in MODULES if p.parts[0] == "targets" and p.name == "__init__.py"], ids=str)
def test_descriptions_need_the_standard_library_alone(path):
    for name, _ in imports(path):
        assert name == "targets" or name.partition(".")[0] in STANDARD, f"{path} imports {name}"


@pytest.mark.parametrize("path", LAZY)
def test_heavy_or_optional_packages_are_imported_when_needed(path):
    by_package = imports(Path(path))
    for package in LAZY[path]:
        assert {now for name, now in by_package if name.partition(".")[0] == package} == {False}


def reachable(start: str) -> set[str]:
    """Every module that importing `start` imports, as far as our own modules go, and the packages they are in."""
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = Path(*name.split("."))
        at = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if (ROOT / p).exists()), None)
        if at is not None and name.partition(".")[0] in PACKAGES:
            todo += [n for n, now in imports(at) if now]
            todo += [name.rpartition(".")[0]] if "." in name else []  # a package runs before its modules
    return {name.partition(".")[0] for name in seen} | seen


@pytest.mark.parametrize(
    "start, never",
    [
        ("runtime", {"torch", "tvm", "tvm_ffi", "onnx", "train", "compile", "targets", "rich", "PIL"}),
        ("runtime.__main__", {"torch", "tvm", "tvm_ffi", "onnx", "train", "compile", "targets", "rich", "PIL"}),
        ("train.run", {"tvm", "tvm_ffi", "torch"}),
        ("train.finish", {"tvm", "tvm_ffi"}),
        ("train.learn", {"tvm", "tvm_ffi"}),
        ("train.recost.__main__", {"tvm", "tvm_ffi", "torch"}),
        ("train.recost.recost", {"tvm", "tvm_ffi"}),
        ("train.report.__main__", {"tvm", "tvm_ffi", "torch"}),
        ("train.report.write", {"tvm", "tvm_ffi"}),
        ("train.integers.export", {"tvm", "tvm_ffi"}),
        ("compile.build", {"torch", "train", "tvm", "tvm_ffi"}),
        ("compile.profile", {"torch", "train", "tvm", "tvm_ffi", "onnxruntime"}),
        ("targets.reference.interpreter", {"tvm", "torch", "onnx", "train", "runtime", "compile"}),
        ("targets", {"tvm", "numpy", "torch", "compile"}),
    ],
)
def test_nothing_heavy_behind_a_corner(start, never):
    assert not reachable(start) & never


def test_only_faces_hold_code_in_their_init():
    """Elsewhere `__init__.py` is empty, so that no import pulls in more than it names."""
    faces = {Path("runtime/__init__.py"), *(p for p in MODULES if p.parts[0] == "targets" and len(p.parts) <= 3)}
    for path in MODULES:
        if path.name == "__init__.py" and path not in faces:
            text = (ROOT / path).read_text()
            assert not text or path.parts[0] == "benchmarks", f"{path} is not empty"


def test_nobody_imports_compile_itself():
    """`compile` is a builtin's name too: `from compile.source import ...`, never `import compile`."""
    for path in [*MODULES, *(p.relative_to(ROOT) for p in (ROOT / "tests").rglob("*.py"))]:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                assert "compile" not in [a.name for a in node.names], f"{path}:{node.lineno}"
