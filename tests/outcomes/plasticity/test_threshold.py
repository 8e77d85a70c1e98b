"""Samples to a threshold: an event is seen, a cap is never one, and the base alone fixes tau."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.plasticity import (
    censored_times,
    plasticity_outcomes,
    restricted_mean,
    samples_to_threshold,
    threshold_from,
    threshold_rows,
)
from limberlm.outcomes.plasticity.settings import PlasticitySettings
from limberlm.outcomes.table import outcome_row, outcome_table
from tests.outcomes.plasticity.probing import SETTINGS, Rows, lora, named, outcomes, said


def curve_rows(losses: dict[int, float], task: str = "codebook", rate: float = 1e-3) -> Rows:
    said = {"learning_rate": rate, "batch_size": 4}
    return [
        outcome_row("future_loss", task, [loss, loss], step=step, settings=said | {"tokens": 40 * step})
        for step, loss in losses.items()
    ]


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 30), st.floats(0, 5), min_size=1),
    st.floats(0, 5),
    st.integers(1, 8),
    st.integers(0, 240),
)
def test_the_time_is_that_of_the_first_reading_at_or_below_tau(
    losses: dict[int, float], tau: float, batch: int, cap: int
) -> None:
    time = samples_to_threshold(losses, tau, batch, cap)
    hits = sorted(step * batch for step in losses if losses[step] <= tau and step * batch <= cap)
    assert time.censored == (not hits)
    assert time.samples == (hits[0] if hits else cap)


def test_a_checkpoint_that_is_there_already_needs_no_sample_and_one_at_the_cap_is_an_event() -> None:
    assert samples_to_threshold({0: 1.0, 5: 2.0}, 1.5, 4, 20) == (0.0, False)
    assert samples_to_threshold({0: 3.0, 5: 2.0}, 2.0, 4, 20) == (20.0, False)
    assert samples_to_threshold({0: 3.0, 5: 2.0}, 1.9, 4, 20) == (20.0, True)
    assert samples_to_threshold({0: 3.0, 5: float("nan")}, 1.9, 4, 20) == (20.0, True)


def test_tau_is_what_the_base_reached_at_half_its_budget() -> None:
    rows = curve_rows({0: 4.0, 2: 3.0, 4: 2.0, 8: 1.0}) + curve_rows({0: 4.0, 3: 1.0}, "cipher", 2e-3)
    assert threshold_from(rows) == {("codebook", 1e-3): 2.0, ("cipher", 2e-3): 2.5}  # between readings: on the line
    assert threshold_from(rows, share=1)["codebook", 1e-3] == 1.0
    with pytest.raises(ValueError, match="share"):
        threshold_from(rows, share=0)


def test_rows_say_whether_they_are_censored_and_against_what() -> None:
    base, slow = curve_rows({0: 4.0, 2: 3.0, 4: 1.0}), curve_rows({0: 4.0, 2: 3.9, 4: 3.8})
    tau = threshold_from(base)
    [own], [other] = threshold_rows(base, tau), threshold_rows(slow, tau)
    assert (own["outcome"], own["task"], own["value"], own["n"]) == ("samples_to_threshold", "codebook", 8.0, 1)
    stated = {"learning_rate": 1e-3, "batch_size": 4, "tau": 3.0, "cap": 16}
    assert said(own) == stated | {"censored": False}
    assert other["value"] == 16
    assert said(other) == stated | {"censored": True}
    assert np.isnan([own["low"], own["std_error"]]).all()
    times, censored, cap = censored_times([own, other])
    assert (times, censored, cap) == ([8.0, 16.0], [False, True], 16.0)
    assert restricted_mean(times, censored, cap) == 12
    assert threshold_rows(base, {}) == []


def test_times_that_do_not_belong_together_are_refused() -> None:
    rows = curve_rows({0: 4.0, 4: 1.0})
    with pytest.raises(ValueError, match="2 kinds"):
        censored_times([*threshold_rows(rows, 2.0), *threshold_rows(rows, 3.0)])
    with pytest.raises(ValueError, match="0 kinds"):
        censored_times(rows)
    with pytest.raises(ValueError, match="one checkpoint at a time"):
        threshold_from([*rows, *rows])
    with pytest.raises(ValueError, match="codebook: future_loss does not say its learning rate"):
        threshold_from([outcome_row("future_loss", "codebook", [1.0], step=0)])


def test_the_probe_adds_the_rows_by_the_settings_tau_or_by_the_bases(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = outcomes(tiny_model, tiny_tokenizer, learning_rate=[1e-3, 3e-2])
    assert named(plain, "samples_to_threshold") == []
    tau = threshold_from(plain)
    assert set(tau) == {("codebook", 1e-3), ("codebook", 3e-2)}
    settings = PlasticitySettings(**SETTINGS | {"learning_rate": [1e-3, 3e-2]})
    passed = plasticity_outcomes(tiny_model, tiny_tokenizer, lora(), settings, thresholds=tau)
    fixed = outcomes(tiny_model, tiny_tokenizer, learning_rate=[1e-3, 3e-2], threshold=0.01)
    assert [row["value"] for row in named(passed, "samples_to_threshold")] == [
        32.0,
        32.0,
    ]  # first reading after step 2.5
    assert [(row["value"], said(row)["censored"]) for row in named(fixed, "samples_to_threshold")] == [(40.0, True)] * 2
    stored = outcome_table(plain).to_dict("records")  # as it comes back from disk
    assert threshold_from(stored) == tau
    assert [row["value"] for row in threshold_rows(stored, tau)] == [32.0, 32.0]
