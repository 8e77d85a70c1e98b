"""The settings of every intervention as tables, from the models that check them."""

from __future__ import annotations

from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from limberlm import interventions
from limberlm.interventions.kinds import KINDS
from limberlm.interventions.seats.activations import ActivationPenalty

PLACE = "<!-- intervention settings -->"
CLASSES = [getattr(interventions, name) for name in interventions.__all__]
WEIGHTS = {c.name: c.default_weight for c in CLASSES if isinstance(c, type) and issubclass(c, ActivationPenalty)}
SIGNS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}


def filled(markdown: str) -> str:
    """The page with a table for each intervention, where it asks for them."""
    return markdown.replace(PLACE, "\n".join(map(table, KINDS))) if PLACE in markdown else markdown


def table(key: str) -> str:
    """Settings, defaults and ranges of one intervention."""
    kind, weight = KINDS[key], WEIGHTS.get(key)
    rows = [
        f"| `{name}` | {default(field, weight if name == 'weight' else None)} | {bounds(field)} | {field.description} |"
        for name, field in kind.settings.model_fields.items()
    ]
    head = [f"## [{key}]({key}.md)", "", f"Trainers: {', '.join(kind.trainers)}.", ""]
    return "\n".join([*head, "| setting | default | range | |", "|---|---|---|---|", *rows, ""])


def default(field: FieldInfo, otherwise: Any) -> str:
    """What holds where nothing is said; `otherwise` where the field leaves it open."""
    if field.is_required():
        return "must be given"
    value: Any = otherwise if field.default is None else field.default
    return "" if value is None else f"`{list(value) if isinstance(value, tuple) else value}`"


def bounds(field: FieldInfo) -> str:
    """The numbers that it may be."""
    found = []
    for each in field.metadata:
        for sign, words in SIGNS.items():
            if isinstance(each, sign):
                found.append(f"{words} {getattr(each, sign.__name__.lower()):g}")
    return ", ".join(found)
