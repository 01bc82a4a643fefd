"""A kept result is thrown away where its own code changed, and only there."""

import importlib
import sys
from pathlib import Path

import pytest

from polyseme.zoo import TOYS
from polyseme.zoo.tools import source as of


def test_every_toy_has_code_of_its_own() -> None:
    assert len({of.source_hash(kind.__module__) for kind in TOYS.values()}) == len(TOYS)


@pytest.mark.parametrize("name", TOYS)
def test_a_toys_checks_are_behind_it(name: str) -> None:
    kind = TOYS[name]
    assert {e.run.__module__ for e in kind.experiments} <= of.modules_behind(kind.__module__)


def test_only_what_a_module_imports_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "planted_package"
    package.mkdir()
    (package / "__init__.py").write_text("from planted_package.top import X\n")
    (package / "top.py").write_text("import torch\nfrom planted_package.middle import Y\nX = 1\n")
    (package / "middle.py").write_text("def f():\n    from planted_package import late\n")
    (package / "late.py").write_text("import planted_package.middle\n")
    (package / "other.py").write_text("from planted_package.top import X\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(of, "_PACKAGE", "planted_package")
    monkeypatch.setitem(sys.modules, "planted_package", type(sys)("planted_package"))
    sys.modules["planted_package"].__path__ = [str(package)]
    importlib.invalidate_caches()

    def hashed() -> str:
        of.source_hash.cache_clear()
        return of.source_hash("planted_package.top")

    first = hashed()
    (package / "other.py").write_text("changed = True\n")
    (package / "__init__.py").write_text("")
    assert hashed() == first
    for name in ("top", "middle", "late"):
        before = hashed()
        path = package / f"{name}.py"
        path.write_text(path.read_text() + "changed = True\n")
        assert hashed() != before, name
    of.source_hash.cache_clear()


def test_other_modules_and_whole_packages_count_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "planted_other" / "inner"
    inner.mkdir(parents=True)
    for path in (inner.parent / "__init__.py", inner.parent / "alone.py", inner / "__init__.py", inner / "deep.py"):
        path.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()

    def hashed(*others: str) -> str:
        of.source_hash.cache_clear()
        return of.source_hash("polyseme.zoo.tools.source", *others)

    alone, package, neither = hashed("planted_other.alone"), hashed("planted_other"), hashed()
    assert len({alone, package, neither}) == 3
    (inner / "deep.py").write_text("changed = True\n")
    assert hashed("planted_other") != package
    assert hashed("planted_other.alone") == alone
    (inner.parent / "alone.py").write_text("changed = True\n")
    assert hashed("planted_other.alone") != alone
    assert hashed() == neither
    of.source_hash.cache_clear()
