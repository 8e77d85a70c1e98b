"""What every page of ours is built from: templates, scripts, and figures as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from limberlm.analysis.plain import plain
from limberlm.report import style
from limberlm.report.packing import Kept, Numbers, packed

Json = dict[str, Any]


LOADER = ("unpack.js", "csv.js", "figures.js")
"""The scripts that every page has."""


_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that turn the direction of the text after them, so that a name could read as another: they are spelled out."""


def render(
    template: str, page: Mapping[str, Any], scripts: Sequence[str], numbers: Numbers | None = None, **values: Any
) -> str:
    """A page as HTML text that fetches nothing: style, scripts, Plotly and data are inside it.

    `page` is what its `scripts` (files beside the template) read; the light and dark look of the figures, the lengths
    of the `numbers`, and the parts of HTML that the template gave to `kept` are added.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("limberlm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kept, arrays = Kept(), numbers or Numbers()
    whole = {
        **page,
        "templates": {"light": style.template(dark=False), "dark": style.template(dark=True)},
        "arrays": arrays.lengths,
    }
    text = environment.get_template(template).render(
        style=_own("report.css"),
        script=Markup("\n").join(_own(name) for name in (*LOADER, *scripts)),
        plotly=packed_plotly(),
        kept=kept,
        page=lambda: packed(page_json(whole | {"kept": kept.page})),  # when the body is there, and with it what it kept
        numbers=packed(arrays.planes()),
        **values,
    )
    return _TURNING.sub(_spelled, text)


@cache
def packed_plotly() -> str:
    """Plotly's script, packed."""
    return packed(get_plotlyjs())


def page_json(value: object) -> str:
    """JSON without spaces; NaN becomes null.

    >>> page_json({"name": "first", "low": float("nan")})
    '{"name":"first","low":null}'
    """
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _TURNING.sub(_spelled, text)


def _spelled(sign: re.Match[str]) -> str:
    return f"[U+{ord(sign[0]):04X}]"


def _own(name: str) -> Markup:
    return Markup((resources.files("limberlm.report") / "templates" / name).read_text("utf-8"))
