"""Docstrings, names and sizes: what `python -m tests.house.measures` would object to fails here, file by file."""

import ast

import pytest

from tests.house import measures


@pytest.mark.parametrize("path", measures.modules(*measures.PACKAGES), ids=str)
def test_nothing_to_object_to(path):
    assert not "\n".join(map(str, measures.objections(path)))


@pytest.mark.parametrize(
    "source,rule",
    [
        ("def f(): pass", "docstring"),
        ('def f():\n    """Does it."""\n    raise KeyError', "raises"),
        ('def f(x: np.ndarray):\n    """Does it."""', "shapes"),
        ('def f(a, b, c, d, e, g, h, i):\n    """Does it."""', "parameters"),
        ('def f():\n    """Does it."""\n' + "    pass\n" * 60, "long"),
        ('def f():\n    """Does it\n    and more."""', "sentence"),
        ('def f():\n    """Does it."""\n    found = 1', "name"),
        ('def f():\n    """Does it, x int32 [N]; raises KeyError."""\n    raise KeyError', None),
        ("def _f(): raise KeyError", None),
    ],
)
def test_each_rule_sees_what_it_is_for(tmp_path, monkeypatch, source, rule):
    (tmp_path / "one.py").write_text(source)
    monkeypatch.setattr(measures, "ROOT", tmp_path)
    assert ast.parse(source) and {o.rule for o in measures.objections(tmp_path / "one.py")} == ({rule} - {None})
