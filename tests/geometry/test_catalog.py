from __future__ import annotations

import re
from itertools import groupby
from math import inf, isnan, log, pi, sqrt
from typing import get_args

import pytest
import torch

from limberlm.geometry import CATALOG, HEADLINE, Metric, metric
from limberlm.geometry.catalog import record as records
from tests.geometry.clouds import power_law
from tests.geometry.world import (
    DOMAINS,
    IN,
    OUT,
    RANK,
    SEQUENCES,
    TOKENS,
    VOCABULARY,
    WIDE,
    WIDTH,
    World,
    alike,
    apart,
    concentrated,
    independent,
    unchanged,
)

RECORDS = list(CATALOG.values())
APART = ("domain_separability", "homogeneity_between", "homogeneity_within", "domain_probe_accuracy")
READS = ("tokens", "sequences", "pairs", "directions", "spectrum", "activations")
CONVENTIONS = {"rms", "raw", "last", "rms_uncentred", "rms_reference"}

every = pytest.mark.parametrize("record", RECORDS, ids=list(CATALOG))


@pytest.fixture(scope="module")
def draws() -> list[World]:
    return [independent(seed) for seed in (0, 20, 40, 60)]


@pytest.fixture(scope="module")
def plain(draws: list[World]) -> World:
    return draws[0]


@pytest.fixture(scope="module")
def collapsed(plain: World) -> World:
    return concentrated(plain)


def value(record: Metric, world: World) -> float:
    found = record.compute(world.drift if record.name == "output_drift" else world.take(record))
    assert isinstance(found, torch.Tensor)
    assert (found.ndim, found.dtype) == (0, torch.float64)
    assert not isnan(found)
    return found.item()


# --- what a record says about its numbers


@every
def test_every_metric_is_computable_from_what_it_says_it_needs(record: Metric, plain: World, collapsed: World) -> None:
    for world in (plain, collapsed):
        low, high = bounds(record)
        noise = 0.05 if "noise" in record.bounds else 1e-9
        assert low - noise <= value(record, world) <= high + noise


NULLS = [record for record in RECORDS if record.null]


@pytest.mark.parametrize("record", NULLS, ids=[record.name for record in NULLS])
def test_every_null_is_what_there_is_to_read_when_there_is_nothing_to_see(record: Metric, draws: list[World]) -> None:
    by_sequence = record.name == "domain_separability"
    read = [value(record, alike(world) if by_sequence else world) for world in draws]
    # what 64 sequences leave to chance, over four draws
    loose = {"domain_separability": 0.15, "domain_probe_accuracy": 0.3}.get(record.name, 0.025)
    assert sum(read) / len(read) == pytest.approx(record.null(draws[0].counts), rel=loose, abs=0.003)


def way(record: Metric, plain: World, collapsed: World) -> tuple[float, float]:
    """Values before and after features concentrate or become alike."""
    if record.name == "homogeneity_within":
        return value(record, plain), value(record, apart(plain))
    if record.name in APART:
        return value(record, apart(plain)), value(record, plain)
    return value(record, plain), value(record, collapsed)


DIRECTED = [record for record in RECORDS if record.direction != "drift"]


@pytest.mark.parametrize("record", DIRECTED, ids=[record.name for record in DIRECTED])
def test_every_metric_moves_the_stated_way_when_features_concentrate(
    record: Metric, plain: World, collapsed: World
) -> None:
    before, after = way(record, plain, collapsed)
    assert (after > before) if record.direction == "up" else (after < before)


SIMILARITY = [record for record in RECORDS if record.family == "similarity" or record.name == "kl_to_base"]


@pytest.mark.parametrize("record", SIMILARITY, ids=[record.name for record in SIMILARITY])
def test_every_similarity_to_itself_is_the_end_of_its_range(record: Metric, collapsed: World) -> None:
    distance = record.name == "kl_to_base" or "angle" in record.name
    assert value(record, unchanged(collapsed)) == pytest.approx(bounds(record)[0 if distance else 1], abs=1e-6)
    assert value(record, collapsed) != pytest.approx(value(record, unchanged(collapsed)), abs=0.01)


def bounds(record: Metric) -> tuple[float, float]:
    """The ends of the stated range, the words in it read as these worlds have them; infinite where it is soft."""
    if record.bounds == "real":
        return -inf, inf
    if above := re.match(r">=? (\d+)", record.bounds):
        return float(above[1]), inf
    spans = r"[\[(]([^,]+), (.+?)[\])](?=$|;|, | degrees)", r"(\S+?)\.\.([^,]+)", r"(\d+) to (\d+)"
    low, high = next(found.groups() for span in spans if (found := re.match(span, record.bounds)))
    return bound(low), inf if "about" in high else bound(high)


def bound(text: str) -> float:
    wide = WIDE if "alpha" in text else WIDTH
    phi0 = (RANK / OUT + RANK / IN) / 2
    known = {"d": wide, "n": SEQUENCES * TOKENS, "V": VOCABULARY, "K": DOMAINS, "r": RANK, "pi": pi, "phi0": phi0}
    known |= {"ln": log, "sqrt": sqrt, "min": min, "inf": inf}
    called = re.sub(r"(ln|sqrt) (\w+)", r"\1(\2)", text)
    return float(eval(re.sub(r"\) (\w)", r") * \1", called), {"__builtins__": {}}, known))


# --- what the records say of each other


@every
def test_every_record_is_complete(record: Metric) -> None:
    assert CATALOG[record.name] is record
    assert re.fullmatch(r"[a-z][a-z0-9_.]*", record.name)
    assert not record.name.endswith("_corrected"), "corrected rows have that ending"
    for text in ("family", "title", "formula", "source", "bounds", "note", "misses", "oracle"):
        assert getattr(record, text).strip() == getattr(record, text) != ""
        assert "|" not in getattr(record, text) or text in ("formula", "bounds", "note", "misses", "oracle")
    for text in ("note", "misses"):
        assert getattr(record, text).endswith("."), "sentences"
    assert record.direction in get_args(records.Direction)
    assert record.needs in get_args(records.Needs)
    assert record.suite in get_args(records.Suite)


@every
def test_what_a_record_reads_and_where_fits_what_it_needs(record: Metric) -> None:
    assert set(record.conventions) <= CONVENTIONS
    assert (record.conventions == ()) == (record.family == "updates") == (record.needs in ("update", "updates"))
    if record.reads:
        assert record.needs in READS
    if record.needs in ("tokens", "sequences"):
        assert record.reads
    if record.sites in ("logits", "blocks"):
        assert record.conventions == ("raw",), "one convention decides logits and paths through depth"
    if record.family == "logits" and record.reads != "output":
        assert record.sites == "logits"


@every
def test_an_interval_is_promised_only_where_there_can_be_one(record: Metric) -> None:
    if record.integer:
        assert not record.corrected
        assert "no interval" in record.note or not record.conventions
    if record.scale == "log":
        assert bounds(record)[0] >= 0, "what has a logarithm"
    if record.rows_per_dimension is not None:
        assert record.scale == "log" or record.name == "isoscore"


def test_titles_differ_and_families_are_told_in_one_go() -> None:
    assert len({record.title for record in RECORDS}) == len(RECORDS)
    families = [family for family, _ in groupby(record.family for record in RECORDS)]
    assert sorted(set(families)) == sorted(families), "a section of the reference per family"


def test_the_headline_is_in_the_core_of_the_catalog() -> None:
    assert {CATALOG[name].suite for name in HEADLINE} == {"core"}


def test_alphas_are_those_of_the_power_law_that_they_are_given() -> None:
    for name in ("alpha_req", "alpha_band_32_128", "alpha_band_128_512", "alpha_band_512"):
        assert CATALOG[name].compute(power_law(WIDE, 0.7)).item() == pytest.approx(0.7)


def test_a_corrected_row_belongs_to_its_metric() -> None:
    assert metric("effective_rank_corrected") is metric("effective_rank") is CATALOG["effective_rank"]
    with pytest.raises(KeyError, match="no metric"):
        metric("anisotropy_corrected")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match='"rankmee"; nearest: rankme'):
        metric("rankmee")
    with pytest.raises(KeyError, match='no metric "qqq"'):
        metric("qqq")
