"""Every recipe with its configurations, found by reading `def main(...)`, so that a new one is covered."""

import ast
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from published_toy import RECIPES, recipe

from r2anker_hf.config import _Parser, whole


def _names(source: str) -> list[str]:
    """The types that the `main` of a recipe takes."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    mains = [function for function in functions if function.name == "main"]
    return [argument.annotation.id for main in mains for argument in main.args.args]


FILES = [*sorted(RECIPES.glob("*.py")), *sorted(RECIPES.glob("benchmarks/*.py"))]
CONFIGS = {
    str(path.relative_to(RECIPES).with_suffix("")): names for path in FILES if (names := _names(path.read_text()))
}
"""Names of the configurations by recipe, or benchmark."""


def configs(stage: str) -> list[type]:
    """The dataclasses that are the recipe's options."""
    module = recipe(stage)
    return [whole(getattr(module, name)) for name in CONFIGS[stage]]


def parser(stage: str) -> _Parser:
    return _Parser(configs(stage))


def required(made: _Parser, *without: str) -> list[str]:
    """A value for each option that must be given, as one types it; it need not exist."""
    words = []
    for action in made._actions:
        if action.required and action.dest not in without:
            value = "a=x" if action.metavar == "NAME=VALUE" else str((action.choices or ["x"])[0])
            words += [action.option_strings[0], value]
    return words


def leaves(hint: Any) -> Iterator[Any]:
    """The plain types in a hint: of `dict[str, int] | None`, str, int and NoneType."""
    if get_origin(hint) is Literal or not get_args(hint):
        yield hint
    else:
        for part in get_args(hint):
            yield from leaves(part)


def numbers(stage: str) -> Iterator[tuple[dataclasses.Field, Any]]:
    """The options that hold numbers, with their types."""
    for config in configs(stage):
        hints = get_type_hints(config)
        for field in dataclasses.fields(config):
            if field.init and {int, float} & set(leaves(hints[field.name])):
                yield field, hints[field.name]
