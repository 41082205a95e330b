"""Every public name says what it is, and type checkers know it."""

import ast
import importlib
import inspect
import pathlib

import pytest

import dalsegno

PACKAGE = pathlib.Path(dalsegno.__file__).parent
# Outside: harness, which is a program, and what begins with _.
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob("**/*.py")
                 if "harness" not in path.parts and (path.name == "__init__.py" or not path.name.startswith("_")))


def public(names):
    return [name for name in names if not name.startswith("_")]


def said(doc):
    """The text of a docstring, less the signature that nanobind puts in front of it."""
    doc = inspect.cleandoc(doc or "")
    first, _, rest = doc.partition("\n\n")
    return rest if "->" in first or first.endswith(")") else doc


def extension_classes():
    for name in dalsegno.__all__:
        one = getattr(dalsegno, name)
        if inspect.isclass(one) and one.__module__.endswith("_dalsegno"):
            yield one


@pytest.mark.parametrize("one", list(extension_classes()), ids=lambda one: one.__name__)
def test_a_class_of_the_extension_is_documented_to_the_last_field(one):
    assert one.__doc__
    assert [name for name in public(vars(one)) if not said(vars(one)[name].__doc__).strip()] == []


def undocumented(body, owner=""):
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield owner + node.name
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node.body, node.name + ".")


@pytest.mark.parametrize("path", MODULES)
def test_a_module_of_the_package_is_documented(path):
    tree = ast.parse((PACKAGE / path).read_text())
    assert ast.get_docstring(tree)
    assert list(undocumented(tree.body)) == []


def names_in_stub():
    """Of each class its members; of the module, under "", what it defines."""
    tree = ast.parse((PACKAGE / "_dalsegno.pyi").read_text())
    found = {"": set()}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {each.name for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}
            found[node.name] |= {each.target.id for each in node.body if isinstance(each, ast.AnnAssign)}
        elif isinstance(node, (ast.FunctionDef, ast.AnnAssign)):
            found[""].add(node.name if isinstance(node, ast.FunctionDef) else node.target.id)
    return found


def test_stubs_have_every_public_name():
    stub = names_in_stub()
    extension = importlib.import_module("dalsegno._dalsegno")
    for name in public(vars(extension)):
        one = getattr(extension, name)
        if inspect.isclass(one):
            assert set(public(vars(one))) <= stub[name], name
        else:
            assert name in stub[""], name


def test_stubs_name_types_and_not_just_objects():
    text = (PACKAGE / "_dalsegno.pyi").read_text()
    untyped = [line.strip() for line in text.splitlines() if line.strip().startswith("def ") and "->" not in line
               and line.rstrip().endswith((":", "..."))]
    assert untyped == [] and (PACKAGE / "py.typed").is_file()
