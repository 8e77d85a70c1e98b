"""Pages that are made from the records say what the records say, and what they show can be run."""

from __future__ import annotations

import ast
import re

import metric_pages
import metric_words
import preset_page
import pytest

import limberlm
from limberlm.errors import UserError
from limberlm.geometry import CATALOG, HEADLINE, Metric
from limberlm.observe import Geometry, compare, measure
from limberlm.observe.forward.presets import PRESETS
from tests.observe.tiny import mixed_probe, tiny

every = pytest.mark.parametrize("metric", CATALOG.values(), ids=list(CATALOG))
SHOWN = "(picture)"


@pytest.fixture(scope="module")
def measured() -> dict[str, Geometry]:
    """One geometry per way to call `measure` that a page shows, by its options."""
    return {}


def geometry_for(options: dict[str, str], measured: dict[str, Geometry]) -> Geometry:
    key = str(sorted(options.items()))
    if key not in measured:
        settings = {name: value for name, value in options.items() if name != "reference"}
        model, reference = (tiny(max_position_embeddings=128, num_hidden_layers=2, seed=seed) for seed in (0, 1))
        probe = mixed_probe(24, long=8)
        if not PRESETS[options.get("preset", "robust")].token_filter:
            probe = limberlm.ProbeSet(probe.sequences, "all", probe.max_length, token_filter=())
        beside = {"reference": reference} if "reference" in options else {}
        measured[key] = measure(model, probe, **settings, **beside)
    return measured[key]


@every
def test_every_line_shown_gives_a_number(metric: Metric, measured: dict[str, Geometry]) -> None:
    code = metric_pages.code(metric)
    if metric.name == "output_drift":
        exec(code, {})
        return
    if metric.family == "updates":
        assert re.search(rf'^updates.value\("{metric.name}", "dpo"', code, re.MULTILINE)
        assert (', "sft")' in code) == (metric.needs == "updates")
        return
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    options = {word.arg: ast.literal_eval(word.value) for call in calls for word in call.keywords}
    for name in re.findall(r'geometry.value\("([\w.]+)"\)', code):
        assert isinstance(geometry_for(options, measured).value(name), float)


@every
def test_a_page_says_what_its_record_says(metric: Metric) -> None:
    page = metric_pages.page(metric, SHOWN)
    for text in (metric.title, metric.note, metric.misses, SHOWN):
        assert text in page
    for text in (metric.formula, metric.bounds, metric.source, metric.oracle):
        assert text in page or text.replace("|", "&#124;") in page
    assert f"# {metric.title}\n" in page
    assert metric.has_interval == ("| Interval | none" not in page) or metric.family == "updates"
    assert ("--reference" in page) == metric_pages.needs_reference(metric)
    if metric.suite == "preset":
        named = next(name for name, preset in PRESETS.items() if metric.name in preset.metrics)
        assert f'preset="{named}"' in page


def test_null_values_are_computed_by_the_record() -> None:
    page = metric_pages.page(CATALOG["participation_ratio"], SHOWN)
    value = CATALOG["participation_ratio"].null(metric_pages.EXAMPLE)
    assert f"{value:.4g} at n = 32,768 tokens, d = 512" in page
    assert "at any size" in metric_pages.page(CATALOG["anisotropy"], SHOWN)
    assert "32,000 tokens in the vocabulary" in metric_pages.page(CATALOG["entropy"], SHOWN)


def test_the_index_lists_every_metric_and_begins_with_the_headline() -> None:
    index = metric_pages.index()
    links = re.findall(r"\(metrics/([\w.]+)\.md\)", index)
    assert links[: len(HEADLINE)] == list(HEADLINE)
    assert set(links) == set(CATALOG)
    families = re.findall(r"^## (\w+)$", index, re.MULTILINE)
    assert families == ["Headline", *(f.capitalize() for f in dict.fromkeys(m.family for m in CATALOG.values()))]
    assert set(metric_words.FAMILIES) == {metric.family for metric in CATALOG.values()}
    assert {metric.needs for metric in CATALOG.values()} <= set(metric_words.NEEDS)


def test_the_page_of_presets_lists_each_with_its_evidence_and_metrics() -> None:
    page = preset_page.page()
    for preset in PRESETS.values():
        assert f"| `{preset.name}` | {preset.title} | {preset.evidence} |" in page
        assert all(f"(metrics/{name}.md)" in page for name in preset.metrics)


def test_the_refusal_shown_is_the_one_that_two_geometries_get(measured: dict[str, Geometry]) -> None:
    one, other = (geometry_for({"preset": name}, measured) for name in ("robust", "rankme_lasttoken"))
    with pytest.raises(UserError) as refused:
        compare(one, other)
    assert str(refused.value) in preset_page.page()


def test_the_readings_of_one_cloud_are_as_far_apart_as_the_page_says() -> None:
    values = list(preset_page.readings().values())
    assert max(values) / min(values) > 100
    assert values[0] < values[1] < values[2]
