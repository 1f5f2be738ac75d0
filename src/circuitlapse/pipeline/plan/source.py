"""The package's own source code: which modules a module runs, and the constants in them.

A constant is a module-level name in capitals. Modules are read as text, so that looking does not
import torch.
"""

import ast
import copy
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

_PACKAGE = "circuitlapse"
_ROOT = Path(__file__).parents[2]


@cache
def _tree(module: str) -> ast.Module | None:
    """A module's source, parsed; None for a package or a name in a module."""
    path = _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return ast.parse(path.read_bytes()) if path.is_file() else None


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The package's modules that a module imports, anywhere in its text."""
    found: dict[str, None] = {}
    for node in ast.walk(_tree(module) or ast.Module([], [])):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PACKAGE):
            names = [f"{node.module}.{name.name}" for name in node.names]
            found |= dict.fromkeys(n for n in [str(node.module), *names] if _tree(n))
    return tuple(found)


@cache
def modules_behind(module: str) -> tuple[str, ...]:
    """The module and all modules of the package that it imports, directly or not, sorted.

    Raises:
        ModuleNotFoundError: If there is no such module.
    """
    if _tree(module) is None:
        raise ModuleNotFoundError(module)
    found, waiting = {module}, [module]
    while waiting:
        new = set(_imports(waiting.pop())) - found
        found |= new
        waiting += new
    return tuple(sorted(found))


@cache
def constants_behind(module: str) -> Mapping[str, str]:
    """The source text of every constant in the modules behind one, by its full name."""
    return {
        f"{name}.{constant}": value
        for name in modules_behind(module)
        for constant, value in _constants(name)
    }


@cache
def _constants(module: str) -> tuple[tuple[str, str], ...]:
    return tuple(_assigned(_tree(module) or ast.Module([], [])))


def _assigned(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Constants, but for entries of registries: what they say of a number is words."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            name, value = ast.unparse(target), ast.unparse(node.value)  # pyright: ignore
            if name.isupper() and not value.startswith(("Analysis(", "Measurement(")):
                yield name, value


@cache
def code_behind(module: str) -> str:
    """Hash of the code of the modules behind one, without docstrings and comments."""
    digest = hashlib.sha256()
    for name in modules_behind(module):
        tree = copy.deepcopy(_tree(name)) or ast.Module([], [])
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [each for each in node.body if not _is_text(each)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
