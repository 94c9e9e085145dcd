"""Type errors: none in the strict folders, nowhere more than the ratchet allows."""

import pytest

pytest.importorskip("mypy")
from tests.house.type_errors import allowed, checked, excess

pytestmark = pytest.mark.slow


def test_no_file_has_more_type_errors_than_it_may_have():
    counts, text = checked()
    more = excess(counts, allowed())
    assert not more, "\n".join(line for line in text.splitlines() if line.partition(":")[0] in more)


def test_the_strict_folders_are_free_of_them():
    assert not [path for path in allowed() if path.startswith(("runtime/", "targets/reference/"))]


def test_an_excess_is_told_by_file():
    assert excess({"a.py": 3, "b.py": 1}, {"a.py": 3}) == {"b.py": 1}
