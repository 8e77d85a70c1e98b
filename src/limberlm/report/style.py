"""The look of the figures: a colour-blind safe palette (Okabe and Ito 2008), light and dark templates."""

from __future__ import annotations

from typing import Any

# The base is the reference, so it is grey. Black and yellow are left out: unreadable on one of the two pages.
BASE_COLOUR = "#808489"
STAGE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star")
DASHES = ("solid", "dash", "dot")
NULL_COLOUR = "#808489"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
# One hue (ColorBrewer Blues), light enough for dark text: its order is seen without hue, also in grey print.
SEQUENTIAL = ((0.0, "#f7fbff"), (0.5, "#c6dbef"), (1.0, "#62a8d3"))
# Two hues about a pale middle, both light enough for dark text (ColorBrewer's oranges and blues).
DIVERGING = ((0.0, "#f3a765"), (0.5, "#f7f7f7"), (1.0, "#62a8d3"))
# Of many steps, made for colour-blind readers; falls evenly in grey print (Nuñez, Anderton and Renslow 2018).
_CIVIDIS = "#00224e #123570 #3b496c #575d6d #707173 #8a8678 #a59c74 #c3b369 #e1cc55 #fee838".split()
CIVIDIS = tuple((place / 9, colour) for place, colour in enumerate(_CIVIDIS))


def colour(position: int) -> str:
    """The colour of the stage at a position in its run; position 0 is the base."""
    return BASE_COLOUR if position == 0 else STAGE_COLOURS[(position - 1) % len(STAGE_COLOURS)]


def dash(position: int) -> str:
    """The line style: it changes each time the colours start again."""
    return DASHES[max(position - 1, 0) // len(STAGE_COLOURS) % len(DASHES)]


def symbol(position: int) -> str:
    """The marker of the stage at a position in its run, so that colour is never the only cue."""
    return SYMBOLS[position % len(SYMBOLS)]


def translucent(hex_colour: str, alpha: float) -> str:
    """A #rrggbb colour as rgba.

    >>> translucent("#0072b2", 0.15)
    'rgba(0,114,178,0.15)'
    """
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def template(dark: bool) -> dict[str, Any]:
    """A Plotly template (as plain JSON) for a light or a dark page."""
    ink, faint, grid, paper = (
        ("#d9dce0", "#a3a8ae", "#33383e", "#1d2125") if dark else ("#22262a", "#5c636a", "#e6e8eb", "#ffffff")
    )
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"color": faint, "size": 12},
        "title": {"font": {"size": 13, "color": ink}, "standoff": 10},
        "automargin": True,
    }
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": paper,
                "bordercolor": faint,
                "font": {"color": ink, "family": FONT, "size": 13},
                "align": "left",
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": faint, "activecolor": ink},
        }
    }
