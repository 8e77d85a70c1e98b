"""Which tokens a penalty reads, against the rule written out token by token."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.interventions.seats.tokens import IGNORED, choose, draw

PAD = 0


def padded(rows: list[tuple[list[int], list[int]]], side: str) -> dict[str, torch.Tensor]:
    """Prompts and completions as a trainer's collator gives them."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    made: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in rows:
        gap = [PAD] * (length - len(prompt) - len(answer))
        for name, own, filler in (
            ("input_ids", prompt + answer, gap),
            ("attention_mask", [1] * (len(prompt) + len(answer)), gap),
            ("labels", [IGNORED] * len(prompt) + answer, [IGNORED] * len(gap)),
        ):
            made[name].append(filler + own if side == "left" else own + filler)
    return {name: torch.tensor(values) for name, values in made.items()}


def packed(rows: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """The same rows one after the other, as TRL packs them: no mask, positions that start anew."""
    ids = [token for prompt, answer in rows for token in prompt + answer]
    labels = [label for prompt, answer in rows for label in [IGNORED] * len(prompt) + answer]
    places = [place for prompt, answer in rows for place in range(len(prompt) + len(answer))]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([places]),
        "labels": torch.tensor([labels]),
        "attention_mask": None,
    }


def read(inputs: dict[str, Any], *args: Any, **kwargs: Any) -> list[tuple[int, list[int]]]:
    """The tokens that are read, sequence by sequence."""
    index, sequences = choose(inputs, *args, **kwargs)
    assert torch.equal(index, index.unique())  # ascending, each once
    tokens = inputs["input_ids"].flatten()[index].tolist()
    pairs = zip(sequences.tolist(), tokens, strict=True)
    return [(row, [token for _, token in group]) for row, group in groupby(pairs, lambda pair: pair[0])]


def by_hand(rows: list[tuple[list[int], list[int]]], tokens: str, predicting: bool) -> list[tuple[int, list[int]]]:
    found = []
    seen: list[list[int]] = []
    for number, (prompt, answer) in enumerate(rows):
        whole = prompt + answer
        chosen = []
        for place in range(0 if predicting else 1, len(whole)):
            asked = place + 1 if predicting else place
            if asked >= len(whole):
                continue
            labelled = asked >= len(prompt)
            if labelled or (tokens == "all" and prompt not in seen):
                chosen.append(whole[place])
        seen.append(prompt)
        if chosen:
            found.append((number, chosen))
    return found


ROWS = st.lists(
    st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=5)),
    min_size=1,
    max_size=5,
)


@given(ROWS, st.sampled_from(["left", "right"]), st.sampled_from(["completion", "all"]))
@settings(max_examples=200, deadline=None)
def test_padding_the_first_token_and_repeated_prompts_are_not_read(rows: Any, side: str, tokens: str) -> None:
    assert read(padded(rows, side), tokens, None, 0) == by_hand(rows, tokens, predicting=False)


@given(ROWS, st.sampled_from(["left", "right"]))
@settings(max_examples=100, deadline=None)
def test_predicting_the_states_before_the_labels_are_read(rows: Any, side: str) -> None:
    wanted = by_hand(rows, "completion", predicting=True)
    assert read(padded(rows, side), "completion", None, 0, predicting=True) == wanted
    assert read(packed(rows), "completion", None, 0, predicting=True) == wanted


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_packed_rows_are_sequences_of_their_own(rows: Any) -> None:
    assert read(packed(rows), "completion", None, 0) == by_hand(rows, "completion", predicting=False)


@given(ROWS, st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_at_most_so_many_of_each_sequence_are_read_evenly_spaced(rows: Any, most: int, start: int) -> None:
    inputs = padded(rows, "left")
    whole, some = (dict(read(inputs, "completion", number, start)) for number in (None, most))
    assert whole.keys() >= some.keys()
    for row, tokens in whole.items():
        stride = -(-len(tokens) // most)
        assert some.get(row, []) in [tokens[offset::stride] for offset in range(stride)]
        assert len(some.get(row, [])) <= most


def test_every_token_is_read_sooner_or_later() -> None:
    inputs = padded([([1], list(range(10, 30)))], "right")
    drawn = [tokens for step in range(50) for _, tokens in read(inputs, "completion", 4, draw(0, step, 0))]
    assert set().union(*drawn) == set(range(10, 30))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_same_tokens_are_read_whatever_the_padding(side: str) -> None:
    rows = [([1, 2], list(range(10, 30))), ([3], list(range(40, 47)))]
    assert read(padded(rows, side), "completion", 5, 7) == read(packed(rows), "completion", 5, 7)


def test_without_labels_all_tokens_are_read_and_without_a_mask_none_is_padding() -> None:
    ids = torch.tensor([[5, 6, 7], [8, 9, 5]])
    assert read({"input_ids": ids}, "completion", None, 0) == [(0, [6, 7]), (1, [9, 5])]
    assert read({"input_ids": ids}, "all", None, 0) == [(0, [6, 7]), (1, [9, 5])]


def test_embeddings_may_take_the_place_of_tokens() -> None:
    index, rows = choose({"inputs_embeds": torch.zeros(2, 3, 8)}, "completion", None, 0)
    assert index.tolist() == [1, 2, 4, 5]
    assert rows.tolist() == [0, 0, 1, 1]


def test_nothing_to_read_is_nothing() -> None:
    inputs = {"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[IGNORED, IGNORED]])}
    for most in (None, 3):
        index, rows = choose(inputs, "completion", most, 0)
        assert index.shape == rows.shape == (0,)


def test_positions_that_go_on_where_a_row_is_padded_on_the_left_are_one_sequence() -> None:
    inputs = padded([([1, 2], [3, 4]), ([1], [5])], "left")
    counted = inputs["attention_mask"].cumsum(1) - 1
    for positions in (counted.clamp(min=0), counted.masked_fill(inputs["attention_mask"] == 0, 1)):
        found = read({**inputs, "position_ids": positions}, "completion", None, 0)
        assert [tokens for _, tokens in found] == [[3, 4], [5]]


def test_a_prompt_that_is_the_start_of_another_is_not_its_repetition() -> None:
    rows = [([1, 2, 3], [4]), ([1, 2], [5]), ([1, 2, 3], [6]), ([2, 1, 3], [7])]
    assert read(padded(rows, "right"), "all", None, 0) == [(0, [2, 3, 4]), (1, [2, 5]), (2, [6]), (3, [1, 3, 7])]


def test_draws_depend_on_everything_and_on_nothing_else() -> None:
    numbers = {draw(*each) for each in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, "reference")]}
    assert len(numbers) == 5
    state = torch.get_rng_state()
    assert draw(3, 2, 1) == draw(3, 2, 1) < 2**32
    assert torch.equal(torch.get_rng_state(), state)
