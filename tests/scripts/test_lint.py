"""The rules of scripts/lint: each fails on a file that breaks it, and passes a file that only looks like it."""

import pytest

from scripts.lint import __main__ as lint
from scripts.lint.annotations import public_any
from scripts.lint.circles import import_circles
from scripts.lint.private import private_access
from scripts.lint.prose import banned_words, headless_docstrings
from scripts.lint.sources import Source


def lines(findings):
    return [finding.line for finding in findings]


def modules(**texts):
    return [Source(f"{name.replace('_', '/')}.py", text) for name, text in texts.items()]


@pytest.mark.parametrize(
    "back",
    [
        "import pkg.a",
        "from pkg import a",
        "from . import a",
        "from .a import x",
        "if TYPE_CHECKING:\n    from pkg.a import x",
        "def f():\n    from pkg.a import x",
    ],
)
def test_a_circle_is_found(back):
    (found,) = import_circles(
        modules(pkg_a="from pkg.b import y", pkg_b="import pkg.c", pkg_c=back, pkg_d="import pkg.a")
    )
    assert (found.path, found.message) == ("pkg/a.py", "circle of imports: pkg.a, pkg.b, pkg.c")


def test_a_package_is_not_its_modules():
    sources = modules(pkg___init__="from pkg.a import x", pkg_a="from pkg import b", pkg_b="import os")
    assert not import_circles([Source(source.path.replace("///", "/__"), source.text) for source in sources])
    assert import_circles([Source("pkg/__init__.py", "from pkg.a import x"), Source("pkg/a.py", "from pkg import x")])


PRIVATE = """
class A:
    def __init__(self, other):
        self._mine = other._mine
        super()._theirs
        self.__dict__
        self._deep._hidden
def f(a, t):
    return a._mine, t._replace(x=1), a._other
"""


def test_private_attributes_of_others_are_found():
    assert lines(private_access([Source("a.py", PRIVATE)], {})) == [9, 7] or lines(
        private_access([Source("a.py", PRIVATE)], {})
    ) == [7, 9]
    assert lines(private_access([Source("a.py", PRIVATE)], {("a.py", "_other"): "why"})) == [7]
    assert len(private_access([Source("b.py", PRIVATE)], {("a.py", "_other"): "why"})) == 2


def test_headless_docstrings_are_found():
    text = (
        '"""What it is."""\ndef f():\n    """Whether."""\ndef g():\n    """Return it."""\nclass A:\n    """As b."""\n'
    )
    assert sorted(lines(headless_docstrings([Source("a.py", text)]))) == [1, 2, 6]


def test_banned_words_are_found():
    text = "Nobody\nsays it anew, lest\nso manya wait; there is nonesuch, of one's own\nthere is none\n"
    assert lines(banned_words([Source("a.md", text)])) == [1, 2, 2, 3, 4]


ANY = """
@overload
def a(x: int) -> int: ...
@overload
def a(x: str) -> Any: ...
def a(x: Any) -> Any: ...
def b() -> Any | None: ...
def _c() -> Any: ...
class D:
    def e(self) -> "Any": ...
    def _f(self) -> Any: ...
    def g(self) -> list[Any]: ...
class _H:
    def i(self) -> Any: ...
"""


def test_public_any_is_found():
    assert lines(public_any([Source("a.py", ANY)])) == [5, 7, 10]


def test_more_than_the_bound_is_an_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "tsjax").mkdir()
    (tmp_path / "tsjax" / "a.py").write_text('def f():\n    """Whether so."""\n')
    monkeypatch.setattr(lint, "BOUNDS", dict.fromkeys(lint.BOUNDS, 0))
    assert lint.main(tmp_path) == 1
    assert "tsjax/a.py:1: the docstring's summary begins with 'Whether'" in capsys.readouterr().out
    monkeypatch.setattr(lint, "BOUNDS", dict.fromkeys(lint.BOUNDS, 1))
    assert lint.main(tmp_path) == 0
    assert "headless docstrings: 1 of at most 1" in capsys.readouterr().out


@pytest.mark.parametrize("name", lint.BOUNDS)
def test_this_checkout_is_within_its_bounds(name):
    (rule,) = (rule for rule in lint.check(lint.ROOT) if rule.name == name)
    assert len(rule.findings) <= rule.bound
