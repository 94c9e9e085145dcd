"""Measures the code as a reader meets it: docstrings, sizes and names; `python -m tests.house.measures [FOLDER ...]`.

Prints what the tests of this folder would object to, a line for each place, and a table of counts.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "targets", "compile", "train", "benchmarks")
MOST_LINES, MOST_PARAMETERS = 60, 7
# Words that say nothing of the thing: a variable gets the noun of what it holds.
EMPTY_NAMES = {"found", "told", "came", "mine", "theirs", "of", "given", "got_it", "thing", "things"}
ARRAYS = re.compile(r"\b(ndarray|Tensor)\b")
SHAPE = re.compile(r"\[[^\]]*\]|\bscalar\b")
SENTENCE = re.compile(r"[.:?!]$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Objection:
    """One place that breaks a rule of the house."""

    rule: str
    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


def modules(*folders: str) -> list[Path]:
    """Every module under the folders, relative to the checkout."""
    return sorted(p.relative_to(ROOT) for folder in folders for p in (ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[tuple[Function, bool]]:
    """(function, whether it is public) of all functions and methods; one inside a function is private."""

    def visit(node: ast.AST, public: bool) -> Iterator[tuple[Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield child, public and not child.name.startswith("_")
                yield from visit(child, False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, public and not child.name.startswith("_"))
            else:
                yield from visit(child, public)

    yield from visit(tree, True)


def parameters(function: Function) -> int:
    """How many parameters a caller may give, `self` left out."""
    arguments = function.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"]))


def raised(function: Function) -> set[str]:
    """Names of the exceptions that a function raises itself, but for those of functions inside it."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function | ast.Lambda | ast.ClassDef):
                continue
            if isinstance(child, ast.Raise) and child.exc is not None:
                exception = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
                if isinstance(exception, ast.Name | ast.Attribute):
                    name = exception.id if isinstance(exception, ast.Name) else exception.attr
                    names.update({name} if name[:1].isupper() else set())
            visit(child)

    visit(function)
    return names - {"NotImplementedError", "StopIteration", "AssertionError"}


def takes_arrays(function: Function) -> bool:
    """Whether an annotation of the function names an array."""
    arguments = function.args
    notes = [a.annotation for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return any(note is not None and ARRAYS.search(ast.unparse(note)) for note in [*notes, function.returns])


def objections(path: Path) -> Iterator[Objection]:
    """What the rules object to in one module."""
    tree = ast.parse((ROOT / path).read_text())
    for function, public in functions(tree):
        for rule, what in size_objections(function):
            yield Objection(rule, path, function.lineno, f"{function.name} {what}")
        for rule, what in docstring_objections(function) if public else ():
            yield Objection(rule, path, function.lineno, f"{function.name} {what}")
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            first = (ast.get_docstring(node) or "").split("\n")[0]
            if first and not SENTENCE.search(first):
                yield Objection("sentence", path, line, f"{first!r} goes on in the next line, or has no end")
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in EMPTY_NAMES:
            yield Objection("name", path, line, f"a variable named {node.id}")
        if isinstance(node, ast.arg) and node.arg in EMPTY_NAMES:
            yield Objection("name", path, line, f"a parameter named {node.arg}")


def size_objections(function: Function) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) of a function that is too large."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if lines > MOST_LINES:
        yield "long", f"has {lines} lines"
    if parameters(function) > MOST_PARAMETERS:
        yield "parameters", f"has {parameters(function)} parameters"


def docstring_objections(function: Function) -> Iterator[tuple[str, str]]:
    """(rule, what is wrong) of a public function whose docstring says too little."""
    text = ast.get_docstring(function) or ""
    if not text:
        yield "docstring", "has no docstring"
        return
    missing = {name for name in raised(function) if name not in text}
    if missing:
        yield "raises", f"does not name {', '.join(missing)}"
    if takes_arrays(function) and not SHAPE.search(text):
        yield "shapes", "gives no shape"


def main(folders: list[str]) -> None:
    """Prints the objections to the folders, all packages when none is named, and how many there are of each rule."""
    places = [o for path in modules(*(folders or PACKAGES)) for o in objections(path)]
    counts: dict[str, int] = {}
    for place in places:
        print(place)
        counts[place.rule] = counts.get(place.rule, 0) + 1
    print(", ".join(f"{rule} {count}" for rule, count in sorted(counts.items())) or "nothing to object to")


if __name__ == "__main__":
    main(sys.argv[1:])
