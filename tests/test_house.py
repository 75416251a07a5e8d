# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""The rules of CONTRIBUTING.md that can be read off the source."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FOLDERS = ("disback_diffusers", "pipelines", "train_scripts", "examples", "benchmarks")
LONGEST = 300
# What each part of the package may import beside itself; a part is a folder or a module at the top.
BASIC = {"errors", "files", "hub_errors"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "hub_errors": {"errors"},
    "launcher": {"errors"},
    "diffusion": {"errors"},
    "models": {"diffusion", *BASIC},
    "data": {"models", *BASIC},
    "artifact": {"models", "diffusion", *BASIC},
    "hub": {"artifact", *BASIC},
    "pipelines": {"artifact", "models", "diffusion", "hub", *BASIC},
    "evaluation": {"artifact", "data", "models", "diffusion", "pipelines", "launcher", "", *BASIC},
    "study": {"evaluation", "data", *BASIC},
    "training": {"artifact", "data", "evaluation", "models", "diffusion", "hub", "launcher", *BASIC},
}
# Modules that see the arguments as a whole: reading them, checking, opening, building, and putting a run together.
WHOLE_ARGUMENTS = {"arguments", "command_line", "script", "sources", "prepare", "build", "plan", "distill", "finish",
                   "run_folder", "reused_path",
                   "teacher_settings"}  # fmt: skip


def sources():
    """All modules by dotted name, those of pipelines/ under the name they are installed by."""
    found = {}
    for folder in ("disback_diffusers", "pipelines"):
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = ("disback_diffusers", *parts) if folder == "pipelines" else parts
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


SOURCES = sources()


def imported(module):
    """The package's own modules that a module imports when it runs."""
    tree, is_package, found = ast.parse(SOURCES[module].read_text()), SOURCES[module].name == "__init__.py", set()
    for_checkers = {inner for node in ast.walk(tree) if isinstance(node, ast.If)
                    and getattr(node.test, "id", "") == "TYPE_CHECKING" for inner in ast.walk(node)}  # fmt: skip
    for node in set(ast.walk(tree)) - for_checkers:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in SOURCES}
        if not isinstance(node, ast.ImportFrom):
            continue
        up = node.level - is_package  # levels above the module's own name
        base = module.split(".")[: -up or None] if node.level else []
        base = ".".join([*base, *([node.module] if node.module else [])])
        names = {f"{base}.{alias.name}" for alias in node.names}
        found |= {name if name in SOURCES else base for name in names} & SOURCES.keys()
    return found - {module}


def part(module):
    return (module.split(".") + [""])[1]


def test_the_parts_of_the_package_are_known():
    assert {part(module) for module in SOURCES} - {""} == set(ALLOWED)


@pytest.mark.parametrize("module", sorted(set(SOURCES) - {"disback_diffusers"}))
def test_imports_go_one_way(module):
    own = part(module)
    assert {part(other) for other in imported(module)} <= {own, *ALLOWED[own]}


def test_there_is_no_import_cycle():
    TopologicalSorter({module: imported(module) for module in SOURCES if module != "disback_diffusers"}).prepare()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_a_head_holds(folder):
    lengths = {file: len(file.read_text().splitlines()) for file in (ROOT / folder).rglob("*.py")}
    assert [str(file) for file, length in lengths.items() if length > LONGEST] == []


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_messages_of_models_and_diffusion_name_no_flags(module):
    if part(module) in ("models", "diffusion"):
        assert re.findall(r"--[a-z]\w+", SOURCES[module].read_text()) == []


def functions(module):
    """Public functions, methods and constructors, with their names."""
    for node in ast.parse(SOURCES[module].read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ()
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and (inner.name == "__init__" or not inner.name.startswith("_")):
                    static = any(getattr(d, "id", "") == "staticmethod" for d in inner.decorator_list)
                    yield f"{node.name}.{inner.name}", inner, () if static else ("self", "cls")


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_public_functions_are_annotated(module):
    bare = []
    for name, node, bound in functions(module):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        missing = [a.arg for a in arguments if a.annotation is None and a.arg not in bound]
        if missing or (node.returns is None and node.name != "__init__"):
            bare.append(name)
    assert bare == []


def test_the_whole_arguments_reach_few_modules():
    seen = {module.rpartition(".")[2] for module in SOURCES if part(module) == "training"
            and any(other.endswith("training.arguments") for other in imported(module))}  # fmt: skip
    assert seen <= WHOLE_ARGUMENTS
