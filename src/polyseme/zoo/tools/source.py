"""Which code a kept result rests on."""

import ast
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = "polyseme.zoo"


@cache
def source_hash(module: str, *others: str) -> str:
    """Hash of the source of `modules_behind(module)` and of all that lies in `others`.

    A result of other code is not this code's result; but a new toy leaves the other toys' results standing.

    Args:
        module: of the toys, by its full name.
        others: modules and whole packages outside the toys that shape the result as well.
    """
    digest = sha256()
    for name in sorted(modules_behind(module)):
        digest.update(name.encode() + b"\0" + _file(name).read_bytes())
    for name in sorted(others):
        file = _file(name)
        for path in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            digest.update(f"{name}/{path.relative_to(file.parent).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def modules_behind(module: str) -> set[str]:
    """A module of the toys, by its full name, and every other that it imports, directly or not."""
    found, left = {module}, [module]
    while left:
        new = _imports(left.pop()) - found
        found |= new
        left += new
    return found


def _file(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _imports(module: str) -> set[str]:
    """Modules of the toys imported anywhere in it; the package itself, which lists every toy, is left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith(f"{_PACKAGE}.") and _is_module(name)}


def _is_module(name: str) -> bool:
    # A name imported from a module (`polyseme.zoo.tools.stack.Draws`) has a parent that is no package.
    parent, _, _ = name.rpartition(".")
    package = find_spec(parent)
    return package is not None and package.submodule_search_locations is not None and find_spec(name) is not None
