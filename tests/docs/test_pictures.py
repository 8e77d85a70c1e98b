"""Pictures tell the truth about what a metric reacts to, and can be read by everybody."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import torch
from deformed.all import GROUPS, WITHOUT, group_of, response
from deformed.group import Group
from pictures import COLOURS, picture

from limberlm.geometry import CATALOG

STATES = ("anisotropy", "effective_rank", "massive_tokens", "participation_ratio", "participation_ratio_debiased")
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn() -> dict[str, ElementTree.Element]:
    return {name: svg_of(picture(name, STATES)) for name in STATES}


def svg_of(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")])


def bars(svg: ElementTree.Element) -> dict[tuple[str, str], float]:
    """By (series, deformation), the change that a bar shows, its sign and length as drawn."""
    found = {}
    zero = float(next(svg.iter(f"{SPACE}line")).attrib["x1"])
    for rect in svg.iter(f"{SPACE}rect"):
        if rect.get("class") == "bar":
            left, width = float(rect.attrib["x"]), float(rect.attrib["width"])
            length = width if left + width / 2 > zero else -width
            change = float(rect.attrib["data-change"])
            assert (length > 0) == (change > 0) or width < 0.05
            found[rect.attrib["data-series"], rect.attrib["data-deformation"]] = length
    return found


def test_anisotropy_reacts_to_an_offset_and_effective_rank_of_raw_states_does_not(drawn) -> None:
    anisotropy, rank = bars(drawn["anisotropy"]), bars(drawn["effective_rank"])
    longest = max(map(abs, anisotropy.values()))
    assert anisotropy["raw", "offset added to every token"] == longest
    assert ("raw", "offset added to every token") not in rank


def test_what_anisotropy_cannot_see_has_no_bar(drawn) -> None:
    unseen = {"states rotated", "states x 10"}
    assert unseen.isdisjoint(name for _, name in bars(drawn["anisotropy"]))
    (shown,) = response("anisotropy", STATES)
    assert [shown.changes[name] for name in sorted(unseen)] == [0.0, 0.0]


def test_a_massive_token_takes_the_raw_rank_and_leaves_the_normalised_one(drawn) -> None:
    rank = bars(drawn["effective_rank"])
    assert rank["raw", "one massive token in 256"] == min(rank.values())
    assert abs(rank["rms", "one massive token in 256"]) < 0.05 * abs(rank["raw", "one massive token in 256"])
    assert bars(drawn["massive_tokens"]).keys() == {("raw", "one massive token in 256")}


def test_half_the_texts_lower_the_plug_in_ratio_and_not_the_debiased_one() -> None:
    plain, debiased = (response(name, STATES)[0] for name in ("participation_ratio", "participation_ratio_debiased"))
    fewer = "half as many texts"
    assert plain.changes[fewer] < -0.015
    assert abs(debiased.changes[fewer]) < abs(plain.changes[fewer]) / 2


@pytest.mark.parametrize("group", GROUPS.values(), ids=list(GROUPS))
def test_the_same_seed_gives_the_same_values_whatever_was_drawn_before(group: Group) -> None:
    names = frozenset([next(name for name, metric in CATALOG.items() if group_of(metric) is group)])
    first = group.values(0, group.deformations[0], names)
    group.values(1, None, names)
    torch.manual_seed(0)
    assert group.values(0, group.deformations[0], names) == first


@pytest.mark.parametrize("name", ["entropy_median", "duplicated_units", "update_norm", "update_cosine"])
def test_other_families_are_shown_what_fits_them(name: str) -> None:
    changes = response(name, (name,))[0].changes
    moved = {deformation for deformation, change in changes.items() if change != 0.0}
    seen, unseen = {
        "entropy_median": ("temperature halved", "a constant added to all logits"),
        "duplicated_units": ("a tenth made copies of others", "activations x 10"),
        "update_norm": ("change x 10", "weight and change rotated"),
        "update_cosine": ("later undoes the earlier", "later x 10"),
    }[name]
    assert seen in moved
    assert unseen not in moved


def test_a_picture_can_be_read_without_seeing_it_and_without_colour(drawn) -> None:
    for name, svg in drawn.items():
        title, words = svg.find(f"{SPACE}title"), svg.find(f"{SPACE}desc")
        assert svg.attrib["role"] == "img"
        assert svg.attrib["aria-labelledby"] == f"{title.attrib['id']} {words.attrib['id']}"
        assert name in title.text
        labels = [text.text for text in svg.iter(f"{SPACE}text")]
        for deformation in GROUPS["states"].deformations:
            assert deformation in words.text
            assert deformation in labels
    second = [r for r in drawn["effective_rank"].iter(f"{SPACE}rect") if r.get("data-series") == "raw"]
    assert all(rect.attrib["fill"].startswith("url(#") for rect in second), "striped"


@pytest.mark.parametrize("page", [(255, 255, 255), (30, 33, 41)], ids=["light", "dark"])
def test_bars_stand_out_from_the_page_in_both_schemes(page: tuple[int, int, int]) -> None:
    for colour in COLOURS:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        light, dark = sorted((luminance((red, green, blue)), luminance(page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(rgb: tuple[int, int, int]) -> float:
    parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_nothing_in_a_picture_runs_or_is_fetched(drawn) -> None:
    figure = picture("anisotropy", STATES)
    assert not re.search(r"<script|\son\w+=|https?://(?!www\.w3\.org/2000/svg)", figure)
    assert "\n\n" not in figure, "Markdown would end the figure there"


def test_every_metric_has_a_picture_or_a_reason() -> None:
    assert set(WITHOUT) <= set(CATALOG)
    assert all(text.endswith(".") for text in WITHOUT.values())
    for metric in CATALOG.values():
        assert group_of(metric).deformations


@pytest.mark.slow
def test_all_pictures_can_be_drawn() -> None:
    for name in CATALOG.keys() - WITHOUT.keys():
        svg = svg_of(picture(name))
        assert not any(text.text == "undefined" for text in svg.iter(f"{SPACE}text")) or name == "kl_to_base"
        starts = [one.start for one in response(name)]
        assert all(start == start for start in starts)
