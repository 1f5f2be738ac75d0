"""Tables, columns, keys, options, modules and functions have the field's names and no old ones."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import circuitlapse as cl
from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.cli.app import app
from circuitlapse.config.toml import to_toml
from pages import PAGES, ROOT, SOURCE

# What each name became; empty where it went.
TABLES = {"controls": "invariance", "fates": "head_changes", "gains": ""}
COLUMNS = {
    "alone": "",
    "accuracy_among": "candidate_accuracy",
    "base_uses": "used_in_base",
    "beside": "compared_with",
    "corruption": "counterfactual",
    "fate": "category",
    "flipped": "sign_changed",
    "flipped_in": "seeds_with_sign_change",
    "gain": "",
    "reached": "step_of_90",
    "refused": "not_reported",
    "size": "mean_abs_effect",
    "still_uses": "used_in_tuned",
    "uncorrected": "",
    "used_from": "threshold",
    "way": "",
    "with_behaviour": "behaviour_correlation",
}
KEYS = {
    "accumulate": "gradient_accumulation",
    "beside_prompts": "",
    "corruptions": "counterfactuals",
    "blank_heads": "",
    "exact_at": "patch_at",
    "fractions": "circuit_sizes",
    "graft_steps": "",
    "locked": "",
    "old_fraction": "replay_fraction",
    "random_changes": "",
}
OPTIONS = {"--corruption": "--counterfactual", "--exact-at": "--patch-at"}
# Modules are moved and divided: only the old names are held.
MODULES = {"beside", "choice", "fates", "foreign", "form", "given", "looks", "mastery", "matched"}
MODULES |= {"nursery", "own", "places", "prefix", "prefixes", "replaced", "swaps", "tails", "traps"}
MODULES |= {"trial", "watch", "work"}
FUNCTIONS = {
    "arms": "training_runs",
    "beside": "",
    "causes_of": "",
    "check_alike": "check_same_architecture",
    "control_arms": "control_runs",
    "fit_gains": "",
    "gained": "",
    "held_behaviours": "",
    "most_rows": "max_batch_rows",
    "noise_placebos": "placebos_for_noise_floor",
    "read_together": "read_all",
    "remembering": "with_prefix_cache",
    "run_replaced": "run_with_hooks",
    "some_at_once": "max_variants",
}
# Parts of a name that occur in no name at all.
PARTS = {"among", "arm", "arms", "beside", "corruption", "corruptions", "fate", "fates", "flipped"}
PARTS |= {"gained", "gains", "nursery", "remembering", "uncorrected"}


def keys(section: type[BaseModel] = cl.Experiment) -> Iterator[str]:
    """Every key of an experiment, at any depth."""
    for name, field in section.model_fields.items():
        yield name
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation)


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    """Every command and group of commands, with its words."""
    command = typer.main.get_command(app) if command is None else command
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def words_of_commands() -> Iterator[str]:
    """Every command, argument and option."""
    for path, command in commands():
        yield from path
        for parameter in command.params:
            yield from (parameter.name, *parameter.opts, *parameter.secondary_opts)


def public() -> Iterator[str]:
    """Every public name, with the public parameters, methods and fields behind it."""
    for name in cl.__all__:
        yield name
        found = getattr(cl, name)
        if inspect.isclass(found):
            yield from (member for member in dir(found) if not member.startswith("_"))
            if dataclasses.is_dataclass(found):
                yield from (field.name for field in dataclasses.fields(found))
            callables = [getattr(found, member) for member in dir(found) if member[0] != "_"]
        else:
            callables = [found]
        for each in callables:
            home = getattr(each, "__module__", None) or ""
            if inspect.isroutine(each) and home.startswith("circuitlapse"):
                yield from inspect.signature(each).parameters


def definitions() -> Iterator[str]:
    """Every function and class of the source that is not private to a module."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield node.name


NAMES = {
    "tables": (lambda: SCHEMAS, TABLES),
    "columns": (lambda: (name for columns in SCHEMAS.values() for name in columns), COLUMNS),
    "keys": (keys, KEYS),
    "commands": (words_of_commands, OPTIONS),
    "modules": (lambda: (path.stem for path in SOURCE.rglob("*.py")), dict.fromkeys(MODULES, "")),
    "definitions": (definitions, FUNCTIONS),
    "public": (public, {"remembering": "with_prefix_cache"}),
}


@pytest.mark.parametrize("kind", NAMES)
def test_no_old_name_is_left_and_every_new_one_is_there(kind):
    found, renamed = NAMES[kind]
    names = {str(name) for name in found()}
    assert sorted(names & renamed.keys()) == []
    assert sorted({*renamed.values()} - {"", *names}) == []
    parts = {name: set(re.split("[-_]", name.lower())) for name in names}
    assert sorted(name for name, found in parts.items() if found & PARTS) == []


def test_a_column_named_control_is_a_control_fine_tune():
    assert [name for name, columns in SCHEMAS.items() if "control" in columns] == ["elicitable"]


def test_extremes_of_random_groups_are_not_called_quantiles():
    for name, columns in SCHEMAS.items():
        if "n_random" in columns:
            assert {"null_min", "null_max"} <= columns.keys(), name
        assert ("null_low" in columns) == (name == "overlap"), name


# Terms that no text for users has any more, with the field's word.
TERMS = {
    r"accuracy among|among (the )?(listed )?(names|candidates)": "candidate accuracy",
    r"admitted|admission": "validated, validation check",
    r"ahead of": "better than",
    r"arms?": "training runs",
    r"behind so many": "k-shot",
    r"beside": "compared with",
    r"blank heads?": "unused heads",
    r"bl[eo]ws? up|blew up": "diverged",
    r"c[ao]mes? to (no|some)thing": "failed, finished",
    r"corrupt partners?": "counterfactual prompts",
    r"corruptions?": "counterfactuals",
    r"demonstrably": "clearly",
    r"(do|does|did) the (old|new) task": "solves the task",
    r"fates?": "change categories",
    r"(first|last)[ _-]in": "add-one-in, leave-one-out",
    r"flip(s|ped)?": "changes its sign",
    r"(go|goes|gone|went) on (where|with)": "resumes",
    r"gained|gains|the gain": "improvement",
    r"held at|heads held": "frozen",
    r"hybrids?": "grafted models",
    r"(is|are) looked at": "evaluated",
    r"locks? of": "suppressed abilities",
    r"louder|softer|turned up": "rescaled",
    r"nursery": "organism cache",
    r"old circuit.s|heads of the old circuit": "old-task heads",
    r"patched exactly": "patched",
    r"planted": "known ground truth",
    r"remember(s|ed|ing)?": "prefix cache",
    r"role signatures?|signatures?": "head profiles",
    r"traps?": "training diagnostics, flags",
    r"used from": "effect threshold",
    r"wiring": "circuit structure",
    r"without understanding": "shortcut heuristics",
}
# Modules whose strings are the words of prompts.
PROMPTS = (
    "tasks/battery/",
    "tasks/templates.py",
    "tasks/words.py",
    "organisms/corpus.py",
    "written/",
)


def sentences(source: str) -> Iterator[str]:
    """Every string of Python source that is no docstring."""
    nodes = list(ast.walk(ast.parse(source)))
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


def texts() -> Iterator[tuple[str, str]]:
    """Every text for users, with its place: help, experiment file, report and messages."""
    for path, command in commands():
        words = " ".join(("circuitlapse", *path))
        yield f"{words} --help", command.get_help(typer.Context(command, info_name=words))
    yield "demo --print-config", to_toml(cl.demo_experiment())
    for page in PAGES:
        if page != "CHANGELOG.md" and not page.startswith("docs/notes"):  # these name old terms
            yield page, (ROOT / page).read_text()
    for path in SOURCE.rglob("*"):
        place = path.relative_to(SOURCE).as_posix()
        if path.suffix == ".j2":
            code = re.sub(r"\{[{%#].*?[}%#]\}", " ", path.read_text(), flags=re.DOTALL)
            yield place, labels(code)
        elif path.suffix == ".js" and "vendor" not in path.parts:
            code = re.sub(r"\$\{[^{}]*\}", " ", path.read_text())
            yield place, "\n".join(re.findall(r'"[^"\n]* [^"\n]*"|`[^`]* [^`]*`', code))
        elif path.suffix == ".py" and not place.startswith(PROMPTS):
            yield place, "\n".join(text for text in sentences(path.read_text()) if " " in text)


def labels(page: str) -> str:
    """The text of a page with the labels in its tags, without scripts and styles."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    named = re.findall(r'\b(?:title|alt|aria-label|content)="([^"]*)"', page)
    return "\n".join([re.sub(r"</?[a-z][^>]*>", " ", page), *named])


def old_terms(text: str) -> list[str]:
    """The old terms of a text, each with its surroundings and the field's word."""
    text = " ".join(text.split())
    return [
        f"{text[max(0, found.start() - 40) : found.end() + 40]!r}: {word}"
        for term, word in TERMS.items()
        for found in re.finditer(rf"\b({term})\b", text, re.IGNORECASE)
    ]


def test_no_text_has_an_old_term():
    found = {place: old_terms(text) for place, text in texts()}
    assert {place: terms for place, terms in found.items() if terms} == {}


def test_no_built_report_has_an_old_term(finished):
    assert old_terms(labels(finished.report.read_text())) == []
