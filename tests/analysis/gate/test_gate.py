"""The gate on two real checkpoints: what is compared, and what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import limberlm
from limberlm import Geometry, compare
from limberlm.analysis.gate import noise_floor
from limberlm.errors import UserError
from limberlm.geometry import HEADLINE
from limberlm.observe import measure
from tests.analysis.gate.conftest import TEXTS, planted, policy, replays

RANK = {"metric": "effective_rank", "margin": "5 %"}
HEADLINE_HERE = [{"metric": name, "margin": 1} for name in HEADLINE if name != "homogeneity_between"]  # one domain
LOSS = {"outcome": "loss", "task": "prose", "margin": 0.1}


def without(geometry: Geometry, metric: str) -> Geometry:
    table = geometry.table[geometry.table["metric"] != metric].reset_index(drop=True)
    return Geometry(table, geometry.manifest, geometry.statistics)


def undefined(geometry: Geometry, metric: str, reason: str | None = None) -> Geometry:
    table = geometry.table.copy()
    for place in table.index[table["metric"] == metric]:
        table.at[place, "value"], table.at[place, "replicates"] = np.nan, [np.nan] * 16
    told = {f"band/rms/{metric}": reason} if reason else {}
    return Geometry(table, geometry.manifest | {"undefined": told}, geometry.statistics)


def relabelled(geometry: Geometry, *place: str, value: Any) -> Geometry:
    manifest = json.loads(json.dumps(geometry.manifest))
    inner = manifest
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return Geometry(geometry.table, manifest, geometry.statistics)


def other_tokens(geometry: Geometry) -> Geometry:
    return Geometry(geometry.table.assign(n_tokens=geometry.table["n_tokens"] - 1), geometry.manifest, {})


def test_the_same_checkpoint_passes_and_its_verdict_replays(baseline: Geometry) -> None:
    verdict = limberlm.gate(baseline, baseline, policy(*HEADLINE_HERE))
    assert verdict.decision == "pass"
    assert {one.case.candidate == one.case.baseline for one in verdict.judgements} == {True}
    assert {(one.low, one.high, one.pairs) for one in verdict.judgements} == {(0.0, 0.0, 16)}
    assert replays(verdict)


def test_the_interval_is_that_of_the_comparison(baseline: Geometry, candidate: Geometry) -> None:
    known = compare(baseline, candidate).headline.set_index("metric")
    verdict = limberlm.gate(baseline, candidate, policy(*HEADLINE_HERE))
    one = limberlm.gate(baseline, candidate, policy(RANK))
    for name, found in zip((asked["metric"] for asked in HEADLINE_HERE), verdict.judgements, strict=True):
        shown = np.exp if found.case.scale == "log" else float
        assert shown(found.change) == pytest.approx(known.loc[name, "corrected"])
        assert found.std_error == pytest.approx(known.loc[name, "std_error"])
    low, high = (np.exp(getattr(one.judgements[0], end)) for end in ("low", "high"))
    assert (low, high) == pytest.approx(tuple(known.loc["effective_rank", ["low", "high"]]))
    assert np.exp(one.judgements[0].detectable) == pytest.approx(known.loc["effective_rank", "detectable"])


@pytest.mark.parametrize(
    ("effect", "harmful", "decision"),
    [
        (-0.5, "down", "fail"),
        (-0.5, "up", "pass"),
        (-0.5, "both", "fail"),
        (0.5, "down", "pass"),
        (0.5, "up", "fail"),
        (0.5, "both", "fail"),
        (0.0, "both", "pass"),
        (-0.2, "both", "inconclusive"),
        (-0.2, "down", "inconclusive"),
    ],
)
def test_a_planted_change(baseline: Geometry, candidate: Geometry, effect: float, harmful: str, decision: str) -> None:
    own = limberlm.gate(baseline, candidate, policy({"metric": "effective_rank", "margin": 1})).judgements[0].change
    moved = planted(candidate, "effective_rank", effect - own)
    asked = policy({"metric": "effective_rank", "margin": f"{100 * (np.exp(0.2) - 1)} %", "harmful": harmful})
    verdict = limberlm.gate(baseline, moved, asked)
    assert verdict.judgements[0].change == pytest.approx(effect, abs=1e-9)
    assert verdict.decision == decision
    assert replays(verdict)


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (lambda g: without(g, "effective_rank"), "the candidate has no effective_rank, band, rms"),
        (
            lambda g: undefined(g, "effective_rank"),
            "the candidate has no value of effective_rank, band, rms: it is no number",
        ),
        (
            lambda g: undefined(g, "effective_rank", "rank zero"),
            "the candidate has no value of effective_rank, band, rms: rank zero",
        ),
        (lambda g: relabelled(g, "probe", "digest", value="0"), "was measured otherwise: probe digest differs"),
        (
            lambda g: relabelled(g, "convention", "max_length", value=9),
            "was measured otherwise: max_length differs: 16",
        ),
        (lambda g: relabelled(g, "convention", "dtype", value="bfloat16"), "was measured otherwise: dtype differs"),
        (other_tokens, "tokens there, the baseline"),
    ],
)
def test_what_cannot_be_compared_fails_with_the_reason(
    baseline: Geometry, candidate: Geometry, spoilt: Callable[[Geometry], Geometry], reason: str
) -> None:
    verdict = limberlm.gate(baseline, spoilt(candidate), policy(RANK, {"metric": "anisotropy", "margin": 1}))
    assert verdict.decision == "fail"
    assert reason in verdict.judgements[0].reason
    assert replays(verdict)


def test_other_texts_fail(tiny_model_folder: Path, baseline: Geometry) -> None:
    other = measure(tiny_model_folder, TEXTS[:60], max_length=16)
    verdict = limberlm.gate(baseline, other, policy(RANK))
    assert verdict.decision == "fail"
    assert "probe digest differs" in verdict.reasons[0]


def test_too_few_texts_for_blocks_fail(tiny_model_folder: Path) -> None:
    few = measure(tiny_model_folder, TEXTS[:6], max_length=16)
    verdict = limberlm.gate(few, few, policy(RANK))
    assert (verdict.decision, verdict.judgements[0].pairs < 8) == ("fail", True)
    assert "an interval needs 8" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("spoilt", "criterion"),
    [(lambda g: without(g, "effective_rank"), RANK), (lambda g: g, RANK | {"convention": "mine"}), (lambda g: g, LOSS)],
)
def test_what_the_baseline_lacks_is_refused(
    baseline: Geometry, spoilt: Callable[[Geometry], Geometry], criterion: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"^baseline .*; measure it, or drop the criterion"):
        limberlm.gate(spoilt(baseline), baseline, policy(criterion))


def test_a_baseline_that_is_undefined_is_refused_with_the_reason(baseline: Geometry) -> None:
    """Of texts without domains the default policy asks something that no candidate could answer."""
    with pytest.raises(UserError, match=r"has no value of homogeneity_between.*domain"):
        limberlm.gate(baseline, baseline)


def test_margins_are_shares_or_numbers_of_the_baseline(baseline: Geometry) -> None:
    rank, entropy = baseline.value("effective_rank"), baseline.value("entropy_median")
    criteria = [
        RANK,
        {"metric": "rankme", "convention": "rms", "margin": 1.0},
        {"metric": "entropy_median", "margin": "5 %"},
        {"metric": "anisotropy", "margin": 0.25},
    ]
    found = [one.margin for one in limberlm.gate(baseline, baseline, policy(*criteria)).judgements]
    rankme = baseline.value("rankme", convention="rms")
    assert rank > 1
    assert found == pytest.approx([log(1.05), log(1 + 1 / rankme), 0.05 * entropy, 0.25])


def test_noise_of_the_baseline_raises_the_margin(baseline: Geometry, candidate: Geometry) -> None:
    asked = policy({"metric": "effective_rank", "margin": 1e-6, "harmful": "both"})
    assert limberlm.gate(baseline, candidate, asked).decision != "pass"
    moved = [planted(candidate, "effective_rank", size) for size in (0.3, -0.5)]
    verdict = limberlm.gate(baseline, candidate, asked, noise=moved)
    assert verdict.judgements[0].margin == pytest.approx(0.5, abs=0.1)
    assert verdict.decision == "pass"
    assert "2 re-measured baselines" in verdict.warnings[-1]
    assert "1/3" in verdict.warnings[-1]
    assert len(verdict.to_json()["noise"]) == 2


def test_noise_measured_otherwise_is_refused(baseline: Geometry) -> None:
    other = relabelled(baseline, "convention", "dtype", value="bfloat16")
    with pytest.raises(UserError, match=r"^noise .*dtype differs.*measure it as the baseline"):
        limberlm.gate(baseline, baseline, policy(RANK), noise=[other])


def test_the_noise_floor_re_measures_the_baseline(tmp_path: Path, tiny_model_folder: Path, baseline: Geometry) -> None:
    found = noise_floor(tiny_model_folder, TEXTS, 2, out=tmp_path / "noise", max_length=16)
    assert len({json.dumps(one.manifest["batch_size"]) for one in found}) == 2
    verdict = limberlm.gate(baseline, baseline, policy(RANK), noise=[tmp_path / "noise"])
    floor = verdict.judgements[0].case.noise
    assert len(floor) == 2
    assert max(floor) < 1e-4  # rounding, and nothing else


def test_the_verdict_names_what_it_read(baseline: Geometry, candidate: Geometry) -> None:
    record = limberlm.gate(baseline, candidate, policy(RANK)).to_json()
    assert record["baseline"]["probe"] == record["candidate"]["probe"] == baseline.manifest["probe"]["digest"]
    assert record["baseline"]["geometry"] != record["candidate"]["geometry"]
    again = limberlm.gate(baseline, planted(candidate, "effective_rank", 1e-9), policy(RANK)).to_json()
    assert again["candidate"]["geometry"] != record["candidate"]["geometry"]
    assert set(record["versions"]) == {"limberlm", "python", "numpy", "scipy"}


def test_a_seed_out_of_range_is_refused(baseline: Geometry) -> None:
    with pytest.raises(UserError, match="seed -1"):
        limberlm.gate(baseline, baseline, policy(RANK), seed=-1)
