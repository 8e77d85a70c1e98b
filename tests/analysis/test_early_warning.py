"""Early warning: who leaves first is read from made-up series, and from real geometries in a trace's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.analysis.early_warning import (
    Left,
    Moment,
    callback_geometries,
    first_left,
    lead_of,
    stage_early_warning,
    trace_early_warning,
)
from limberlm.errors import UserError
from limberlm.interventions.guard.margin import Margin
from limberlm.observe import Geometry, measure
from limberlm.outcomes.table import outcome_row, outcome_table
from tests.observe.tiny import random_probe, tiny

STATES = ["inside", "outside", "cannot tell"]
series = st.lists(st.sampled_from(STATES), max_size=12)
PROBE = random_probe(96)
ITEMS = 200
DOWN = Margin(0.05, "relative", "down", "log")


def steps_of(states: list[str]) -> list[int]:
    return [2**place for place in range(len(states))]


@given(series, st.integers(1, 3))
def test_the_first_run_of_outside_is_found_as_by_hand(states: list[Any], in_a_row: int) -> None:
    steps = steps_of(states)
    letters = "".join(state[0] for state in states)
    place = letters.find("o" * in_a_row)
    found = first_left(steps, states, in_a_row)
    if place < 0:
        assert found == Left(None, steps[-1] if steps else 0, letters.count("c"))
    else:
        assert found == Left(steps[place], steps[place - 1] if place else 0, letters[:place].count("c"))


@given(series, series)
def test_a_lead_turns_its_sign_when_the_two_change_places(one: list[Any], other: list[Any]) -> None:
    size = min(len(one), len(other))
    steps = steps_of(one[:size])
    a, b = first_left(steps, one[:size]), first_left(steps, other[:size])
    there, back = lead_of(a, b), lead_of(b, a)
    mirrored = {"geometry": "outcome", "outcome": "geometry"}
    words = there.verdict.split()
    assert back.verdict == " ".join([mirrored.get(words[0], words[0]), *words[1:]])
    if there.lead is not None and back.least is not None and back.most is not None:
        assert back.lead == -there.lead
        assert (back.least, back.most) == (-there.most, -there.least)
        assert there.least <= there.lead <= there.most


# --- real geometries


def geometry(power: float) -> Geometry:
    """A model whose final norm weighs coordinate i by i^-power: the larger the power, the fewer directions are left."""
    model = tiny(hidden_size=32, num_hidden_layers=1, seed=3)
    weight = model.model.norm.weight.data
    weight.copy_(weight.new_tensor(range(1, len(weight) + 1)) ** -power)
    return measure(model, PROBE, metrics=["effective_rank"])


def outcomes(share: float, loss: float, items: int = ITEMS) -> pd.DataFrame:
    """Arithmetic, of which this share is right, and prose of about this loss."""
    right = [1.0] * round(share * items) + [0.0] * round((1 - share) * items)
    losses = loss + np.random.default_rng(0).normal(0, 0.1, items)
    rows = [
        outcome_row("accuracy", "arithmetic", right, kind="share"),
        outcome_row("loss", "prose", losses.tolist()),
        outcome_row("choices", "arithmetic", right),
    ]
    return outcome_table(rows)


@pytest.fixture(scope="module")
def stage() -> list[Moment]:
    """The rank falls from step 4 on, accuracy from step 16 on; the loss stays."""
    powers = [0.0, 0.0, 0.0, 0.4, 0.6, 0.8]
    shares = [0.8, 0.8, 0.8, 0.79, 0.78, 0.5]
    made = zip([0, 1, 2, 4, 8, 16], powers, shares, strict=True)
    return [Moment(step, geometry(power), outcomes(share, 2.0)) for step, power, share in made]


def table(stage: list[Moment], **how: Any) -> pd.DataFrame:
    return stage_early_warning(stage[0], stage[1:], site="final_norm", margin=DOWN, **how)


def test_the_geometry_that_leaves_first_is_found_first_with_what_the_lead_can_be(stage: list[Moment]) -> None:
    found = table(stage).set_index("outcome")
    assert list(found.index) == ["accuracy", "loss"]  # no margin is known for choices
    row = found.loc["accuracy"]
    assert (row["verdict"], row["geometry_step"], row["outcome_step"]) == ("geometry first", 4, 16)
    assert (row["lead"], row["least"], row["most"]) == (12, 4, 14)
    assert (row["geometry_after"], row["outcome_after"], row["checkpoints"]) == (2, 8, 5)
    loss = found.loc["loss"]
    assert loss["verdict"] == "geometry only"
    assert pd.isna(loss["lead"])
    assert pd.isna(loss["outcome_step"])


def test_other_margins_give_each_of_the_other_answers(stage: list[Moment]) -> None:
    def verdict(margin: Margin = DOWN, **outcome_margins: Margin) -> str:
        how = {"site": "final_norm", "margin": margin, "outcome_margins": outcome_margins}
        return str(stage_early_warning(stage[0], stage[1:], **how)["verdict"].iloc[0])

    points = Margin(0.05, "absolute", "down", "linear")
    assert verdict(Margin(0.9), accuracy=points) == "outcome only"
    assert verdict(Margin(0.9), accuracy=Margin(0.9, "absolute", "down", "linear")) == "neither left"
    late = Margin(1 - 1.01 * stage[-1].geometry.value("effective_rank", "final_norm") / start(stage))
    assert verdict(late, accuracy=points) == "together"


def start(stage: list[Moment]) -> float:
    return stage[0].geometry.value("effective_rank", "final_norm")


def test_a_rank_that_rises_has_not_left(stage: list[Moment]) -> None:
    back = list(reversed(stage))
    moments = [Moment(step, one.geometry, one.outcomes) for step, one in enumerate(back)]
    assert set(table(moments)["geometry_step"].isna()) == {True}


def test_without_outcomes_the_geometry_is_told_alone(stage: list[Moment]) -> None:
    bare = [Moment(one.step, one.geometry) for one in stage]
    (row,) = table(bare).to_dict("records")
    assert row["geometry_step"] == 4
    assert "verdict" not in row


def test_what_was_not_measured_alike_is_refused(stage: list[Moment]) -> None:
    fewer = [stage[0], Moment(1, stage[1].geometry, outcomes(0.8, 2.0, items=100))]
    with pytest.raises(UserError, match="accuracy on arithmetic: measured with no settings on 200 items and with"):
        table(fewer)
    missing = [stage[0], Moment(1, stage[1].geometry)]
    with pytest.raises(UserError, match="accuracy on arithmetic: 0 values at one checkpoint"):
        table(missing)
    with pytest.raises(UserError, match='no metric "rankme"'):
        table(stage, metric="rankme")


def test_a_traces_stages_each_start_where_the_one_before_ended(stage: list[Moment], tmp_path: Path) -> None:
    listed = []
    for place, moment in enumerate(stage):
        name, step = ("base", 0) if not place else ("sft", moment.step) if place < 4 else ("dpo", place - 3)
        node = tmp_path / "nodes" / f"n{place}"
        moment.geometry.save(node / "geometry")
        moment.outcomes.to_parquet(node / "outcomes.parquet")
        listed.append({"stage": name, "step": step, "node": node.name})
    (tmp_path / "checkpoints.json").write_text(json.dumps({"checkpoints": listed}))
    found = trace_early_warning(tmp_path, site="final_norm", margin=DOWN)
    by_hand = table([stage[3], Moment(1, *after(stage[4])), Moment(2, *after(stage[5]))])
    by_hand.insert(0, "stage", "dpo")
    assert list(dict.fromkeys(found["stage"])) == ["sft", "dpo"]
    pd.testing.assert_frame_equal(found[found["stage"] == "dpo"].reset_index(drop=True), by_hand)
    assert found[found["stage"] == "sft"]["geometry_step"].tolist() == [4, 4]


def after(moment: Moment) -> tuple[Geometry, pd.DataFrame]:
    return moment.geometry, moment.outcomes


def test_a_callbacks_folder_is_read_in_order_and_without_its_start_refused(stage: list[Moment], tmp_path: Path) -> None:
    for step in (0, 4, 16):
        next(one for one in stage if one.step == step).geometry.save(tmp_path / f"step-{step}.geometry")
    found = callback_geometries(tmp_path)
    assert list(found) == [0, 4, 16]
    assert found[4].value("effective_rank", "final_norm") == stage[3].geometry.value("effective_rank", "final_norm")
    with pytest.raises(UserError, match=r"has no step-0\.geometry"):
        callback_geometries(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"checkpoints\.json: no such file"):
        trace_early_warning(tmp_path)
