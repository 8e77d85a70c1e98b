"""A share of the sequences stands for all of them: exactly on average, and its states are those of the whole batch."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limberlm.interventions.anchors.formulas import anchored
from limberlm.interventions.seats.sampling import inputs_of, some_sequences, systematic
from limberlm.interventions.seats.tokens import Batch, choose

SHARES = st.fractions(Fraction(1, 9), 1, max_denominator=9)


@given(st.integers(1, 30), SHARES)
def test_each_thing_is_drawn_with_the_share_as_its_probability(count: int, share: Fraction) -> None:
    """Between two neighbouring breaks at multiples of 1/q nothing changes: the mean over q starts is the integral."""
    parts = share.denominator
    drawn = torch.stack([systematic(count, float(share), (part + 0.5) / parts) for part in range(parts)])
    assert drawn.sum(0).tolist() == [share.numerator] * count
    sizes = set(drawn.sum(1).tolist())
    assert sizes <= {int(count * share), -int(-count * share // 1)}


def made(rows: int, length: int = 6, step: int = 0) -> Batch:
    inputs = {"input_ids": torch.arange(rows * length).reshape(rows, length) % 50 + 5}
    index, sequences = choose(inputs, "all", None, 0)
    return Batch(index, sequences, (rows, length), inputs, step, 0, 7)


def test_the_numbers_that_decide_are_uniform() -> None:
    starts = torch.tensor([made(1, step=step).draw("sequences") / 2**32 for step in range(4000)])
    counts = torch.histc(starts, 20, 0, 1)
    assert float(((counts - 200) ** 2 / 200).sum()) < 43.8  # chi-squared, 19 degrees of freedom, 0.1 %


@pytest.mark.parametrize(("rows", "share"), [(1, 0.25), (2, 0.25), (4, 0.25), (6, 0.25), (5, 0.4)])
def test_the_penalty_is_unbiased(rows: int, share: float) -> None:
    """Over many micro-batches the drawn sequences' gradient is that of all, though one has fewer tokens."""
    generator = torch.Generator().manual_seed(0)
    batch = made(rows)
    keep = torch.ones(len(batch.index), dtype=torch.bool)
    keep[:3] = False  # the first row has fewer tokens
    index, sequences = batch.index[keep], batch.sequences[keep]
    states, reference = torch.randn(2, 6 * rows, 4, dtype=torch.float64, generator=generator)
    whole = torch.zeros_like(states)
    whole[index] = anchored(states[index], reference[index])[1]
    draws, total, fired = 3000, torch.zeros_like(states), 0
    for step in range(draws):
        some = some_sequences(Batch(index, sequences, batch.shape, batch.inputs, step, 0, 7), share)
        if some is not None:
            fired += 1
            total[some.index] += some.scale * anchored(states[some.index], reference[some.index])[1]
    assert fired == draws or rows * share < 1
    assert fired / draws == pytest.approx(min(1, rows * share), abs=0.03)
    error = ((1 - share) / (share * draws)) ** 0.5  # of a mean of things that are there with that probability
    assert float((total / draws - whole).norm()) < 3 * error * float(whole.norm())


def test_all_sequences_are_the_batch_itself() -> None:
    batch = made(3)
    assert some_sequences(batch, 1.0) is batch


@given(st.integers(0, 10**6), st.sampled_from(["left", "right"]))
def test_the_inputs_hold_the_tokens_at_their_places(seed: int, side: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 10**6, (5, 9), generator=generator)
    lengths = torch.randint(2, 10, (5, 1), generator=generator)
    places = torch.arange(9)
    mask = (places < lengths if side == "right" else places >= 9 - lengths).long()
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    index, sequences = choose(inputs, "completion", 2, seed)
    some = some_sequences(Batch(index, sequences, (5, 9), inputs, seed, 0, 0), 0.5)
    found, place = inputs_of(some)
    assert torch.equal(found["input_ids"].flatten()[place], ids.flatten()[some.index])
    assert torch.equal(found["attention_mask"].flatten()[place], torch.ones(len(place), dtype=torch.long))
    assert len(found["input_ids"]) == len(some.sequences.unique())
    assert found["input_ids"].shape[1] == int((some.index % 9).max()) + 1


def test_documents_are_taken_out_of_their_row() -> None:
    lengths = [4, 6, 3, 5]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids = torch.arange(100, 118)[None]
    inputs = {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(positions == 0, -100)}
    index, sequences = choose(inputs, "completion", None, 0)
    batch = Batch(
        index[(sequences == 1) | (sequences == 3)],
        sequences[(sequences == 1) | (sequences == 3)],
        (1, 18),
        inputs,
        0,
        0,
        0,
    )
    found, place = inputs_of(batch)
    assert found["input_ids"].tolist() == [[*range(104, 110), *range(113, 118)]]
    assert found["position_ids"].tolist() == [[*range(6), *range(5)]]
    assert torch.equal(found["input_ids"].flatten()[place], ids.flatten()[batch.index])


def test_a_mask_of_four_dimensions_is_cut_too() -> None:
    mask = torch.arange(2 * 5 * 5).reshape(2, 1, 5, 5)
    inputs: dict[str, Tensor] = {"input_ids": torch.ones(2, 5).long(), "attention_mask": mask}
    batch = Batch(torch.tensor([6, 7]), torch.tensor([1, 1]), (2, 5), inputs, 0, 0, 0)
    found, _ = inputs_of(batch)
    assert torch.equal(found["attention_mask"], mask[1:, :, :3, :3])
