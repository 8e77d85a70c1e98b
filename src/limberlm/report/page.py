"""What every page of ours is built from: templates, scripts, and figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from limberlm.analysis.plain import plain
from limberlm.report import style

Json = dict[str, Any]


def render(template: str, page: Mapping[str, Any], scripts: Sequence[str], **values: Any) -> str:
    """A page as HTML text that fetches nothing: style, scripts, Plotly and data are inside it.

    `page` is what its `scripts` (files beside the template) read; the light and dark look of the figures is added.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("limberlm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    looks = {"light": style.template(dark=False), "dark": style.template(dark=True)}
    return environment.get_template(template).render(
        style=_own("report.css"),
        script=Markup("\n").join(_own(name) for name in scripts),
        plotly=Markup(get_plotlyjs()),
        page=script_json({**page, "templates": looks}),
        **values,
    )


def script_json(value: object) -> Markup:
    r"""JSON that may stand inside a script element: no `<`, so no tag can close it; NaN becomes null.

    >>> print(script_json({"name": "</script>", "low": float("nan")}))
    {"name":"\u003c/script\u003e","low":null}
    """
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _own(name: str) -> Markup:
    return Markup((resources.files("limberlm.report") / "templates" / name).read_text("utf-8"))
