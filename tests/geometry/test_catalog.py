from __future__ import annotations

import pytest
import torch

from limberlm.geometry import CATALOG, HEADLINE, Directions, eigenvalues, metric
from tests.geometry.clouds import blocks, merged, normal, power_law

N, D = 2048, 64
RECORDS = list(CATALOG.values())


def inputs(rows: torch.Tensor) -> dict[str, object]:
    parts = blocks(rows)
    directions = []
    for part in rows.chunk(16):
        directions.append(Directions.zeros(D))
        directions[-1].update(part)
    return {
        "spectrum": eigenvalues(merged(parts).covariance),
        "blocks": parts,
        "directions": directions,
        "reservoir": directions,
        "tokens": rows.norm(dim=1),
    }


@pytest.mark.parametrize("record", RECORDS, ids=list(CATALOG))
def test_every_metric_is_computable_from_what_it_says_it_needs(record) -> None:
    value = record.compute(inputs(normal(N, D, seed=0))[record.needs])
    assert isinstance(value, torch.Tensor)
    assert value.ndim == 0
    assert value.dtype == torch.float64


@pytest.mark.parametrize("record", [r for r in RECORDS if r.null], ids=[r.name for r in RECORDS if r.null])
def test_every_null_is_what_isotropic_rows_read(record) -> None:
    value = record.compute(inputs(normal(N, D, seed=1))[record.needs]).item()
    assert value == pytest.approx(record.null(N, D), rel=0.04, abs=0.002)


@pytest.mark.parametrize("record", RECORDS, ids=list(CATALOG))
def test_every_metric_moves_the_stated_way_when_features_concentrate(record) -> None:
    rows = normal(N, D, seed=2)
    collapsed = rows * power_law(D, 1.5).sqrt() + 2
    collapsed[::100] *= 40
    before, after = (record.compute(inputs(x)[record.needs]).item() for x in (rows, collapsed))
    assert (after > before) == (record.direction == "up")


@pytest.mark.parametrize("record", RECORDS, ids=list(CATALOG))
def test_every_record_is_complete(record) -> None:
    assert CATALOG[record.name] is record
    for text in (record.family, record.title, record.formula, record.source, record.bounds, record.note):
        assert text
    assert record.direction in ("down", "up")
    assert record.scale == ("log" if record.direction == "down" else "linear")


def test_the_headline_is_in_the_catalog() -> None:
    assert set(HEADLINE) <= set(CATALOG)


def test_a_corrected_row_belongs_to_its_metric() -> None:
    assert metric("effective_rank_corrected") is metric("effective_rank") is CATALOG["effective_rank"]
    with pytest.raises(KeyError, match="no metric"):
        metric("anisotropy_corrected")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match='"rankmee"; nearest: rankme'):
        metric("rankmee")
    with pytest.raises(KeyError, match='no metric "qqq"'):
        metric("qqq")
