"""The import arrows: who may know whom, read from the syntax tree of every module."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("train", "compile", "runtime", "targets", "benchmarks")
MODULES = sorted(p.relative_to(ROOT) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
STANDARD = set(sys.stdlib_module_names)
OURS = set(PACKAGES)

# package -> other packages it may import, "a.b" for one module of ours; its own modules and the standard library always
MAY = {
    "runtime": {"numpy"},
    "targets": {"numpy", "tvm", "tvm_ffi", "unicorn", "compile.graph", "compile.reference"},
    "compile": {"numpy", "onnx", "onnxruntime", "google", "tvm", "tvm_ffi", "rich", "targets", "runtime"},
    "train": {"torch", "numpy", "onnx", "albumentations", "cv2", "PIL", "sklearn", "scipy", "matplotlib", "rich",
              "safetensors", "tensorboard", "compile.graph", "compile.nodes", "compile.checks", "compile.onnx_import",
              "compile.reference", "compile.scales", "compile.costs", "compile.shapes", "runtime.files",
              "runtime.quality", "runtime.selector", "runtime.escalation", "runtime.image", "runtime.terminal",
              "targets"},
    "benchmarks": {"numpy", "tvm", "tvm_ffi", "onnx", "onnxruntime", "openvino", "nncf", "torch", "rich",
                   "matplotlib", "train", "compile", "runtime", "targets"},
}
# modules held to less than their package, or allowed one thing more
ONLY = {
    "compile/graph.py": {"numpy", "compile.nodes", "compile.checks"},
    "compile/nodes.py": {"numpy"},
    "compile/checks.py": {"numpy", "compile.nodes"},
    "compile/costs.py": {"numpy", "compile.graph", "compile.shapes", "runtime.files"},
    "compile/shapes.py": {"numpy", "compile.graph"},
    "compile/reference.py": {"numpy", "compile.graph", "compile.nodes"},
    "compile/packing.py": {"numpy"},
    "compile/scales.py": {"numpy", "compile.graph", "compile.nodes"},
    "runtime/library.py": {"numpy", "runtime", "tvm_ffi"},
    "runtime/pictures.py": {"numpy", "runtime", "PIL"},
    # on a GPU's machine there are numpy, torch and tvm_ffi alone
    "benchmarks/cuda.py": {"benchmarks.cuda_case", "runtime.files", "torch"},
    "benchmarks/cuda_case.py": {"numpy"},
    "benchmarks/cuda_checks.py": {"benchmarks.cuda_case", "numpy", "torch", "tvm_ffi", "runtime"},
    "benchmarks/cuda_times.py": {"benchmarks.cuda_case", "benchmarks.cuda_checks", "runtime.files", "numpy", "torch"},
}
# inside a function only
LAZY = {"runtime/library.py": {"tvm_ffi"}, "runtime/pictures.py": {"PIL"}, "benchmarks/cuda.py": {"torch"}}


def imports(path: Path) -> set[tuple[str, bool]]:
    """(dotted name, whether the import runs when the module does) of everything a module imports."""
    tree, found = ast.parse((ROOT / path).read_text()), set()
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        now = id(node) not in inside
        if isinstance(node, ast.Import):
            found |= {(alias.name, now) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the arrows; write the package's name"
            found |= {(submodule(node.module, alias.name), now) for alias in node.names}
    return found


def submodule(module: str, name: str) -> str:
    """`from a import b` imports a.b where that is a module of ours, else just a."""
    at = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if at.with_suffix(".py").exists() or (at / "__init__.py").exists() else module


def allowed(name: str, may: set[str]) -> bool:
    top = name.partition(".")[0]
    return top in STANDARD - OURS or any(name == m or name.startswith(f"{m}.") for m in may)


def test_there_are_modules():
    assert {p.parts[0] for p in MODULES} == OURS and len(MODULES) > 40


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_arrows(path):
    package = path.parts[0]
    may = ONLY.get(str(path), MAY[package] | {package})
    for name, _ in imports(path):
        assert allowed(name, may), f"{path} imports {name}; it may import {sorted(may)} and the standard library"


@pytest.mark.parametrize("path", [p for p in MODULES if p.parts[0] == "targets" and p.name == "__init__.py"], ids=str)
def test_descriptions_need_the_standard_library_alone(path):
    for name, _ in imports(path):
        assert allowed(name, {"targets"}) and name in ("targets", *STANDARD), f"{path} imports {name}"


@pytest.mark.parametrize("path", LAZY)
def test_heavy_or_optional_packages_are_imported_when_needed(path):
    found = imports(Path(path))
    for name in LAZY[path]:
        assert {now for n, now in found if n.partition(".")[0] == name} == {False}


def reachable(start: str) -> set[str]:
    """Every module that importing `start` imports, as far as our own modules go."""
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = Path(*name.split("."))
        at = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if (ROOT / p).exists()), None)
        if at is not None and name.partition(".")[0] in OURS:
            todo += [n for n, now in imports(at) if now]
            todo += [name.rpartition(".")[0]] if "." in name else []  # a package runs before its modules
    return {name.partition(".")[0] for name in seen} | seen


@pytest.mark.parametrize("start, never", [
    ("runtime", {"torch", "tvm", "tvm_ffi", "onnx", "train", "compile", "targets", "rich", "PIL"}),
    ("runtime.__main__", {"torch", "tvm", "tvm_ffi", "onnx", "train", "compile", "targets", "rich", "PIL"}),
    ("train.run", {"tvm", "tvm_ffi"}),
    ("train.export", {"tvm", "tvm_ffi"}),
    ("compile.build", {"torch", "train"}),
    ("compile.reference", {"tvm", "torch", "onnx", "train", "runtime"}),
    ("targets", {"tvm", "numpy", "torch", "compile"}),
])
def test_nothing_heavy_behind_a_corner(start, never):
    assert not reachable(start) & never


def test_packages_of_the_middle_are_empty():
    for package in ("train", "compile"):
        assert (ROOT / package / "__init__.py").read_text() == ""


def test_nobody_imports_compile_itself():
    """`compile` is a builtin's name too: `from compile.graph import Graph`, never `import compile`."""
    for path in [*MODULES, *(p.relative_to(ROOT) for p in (ROOT / "tests").glob("*.py"))]:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                assert "compile" not in [a.name for a in node.names], f"{path}:{node.lineno}"
