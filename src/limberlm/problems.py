"""What is wrong with a file of settings, in one line."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from limberlm.errors import nearest


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The most telling of what pydantic objects to: the setting's full name, and what to do.

    Where a setting may take several forms pydantic objects once for each; the objection that lies deepest is to the
    form that was meant.

    Args:
        error: pydantic's.
        model: the settings as a whole, of which an unknown one is told its nearest neighbour.

    """
    problem = min(error.errors(include_url=False), key=_rank)
    location = _setting(problem)
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown setting{nearest(str(location[-1]), _beside(location, model))}"
    if problem["type"] == "missing":
        return f"{name}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}: {message}" if name else message
    if problem["type"] == "literal_error":
        options = [option.strip("' ") for option in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f'{name}: "{problem["input"]}" is none of {", ".join(options)}{nearest(str(problem["input"]), options)}'
    return f"{name}: {message} (got {reprlib.repr(problem['input'])})"


def _rank(problem: Any) -> tuple[int, int]:
    vague = ("missing", "literal_error", "tuple_type", "dict_type", "model_type")  # what is misspelt is missing too
    return -len(_setting(problem)), vague.index(problem["type"]) + 1 if problem["type"] in vague else 0


def _setting(problem: Any) -> list[int | str]:
    return [part for part in problem["loc"] if not _is_variant(part)]


def _is_variant(part: int | str) -> bool:
    """Whether pydantic names a branch of a union here, and not a setting."""
    return isinstance(part, str) and (
        part in ("int", "str", "float", "bool", "none")
        or part.endswith("Settings")
        or part.startswith(("literal[", "tuple[", "list[", "dict[", "constrained", "function-"))
    )


def _beside(location: list[Any], model: type[BaseModel]) -> list[str]:
    """The settings that exist where an unknown one stands."""
    for part in location[:-1]:
        if part in model.model_fields:  # else a stage's name, or a place in a list
            model = next(models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings that a field may hold, however deep in its type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)
