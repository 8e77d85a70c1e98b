"""Which tokens and sequences are kept one by one: the probe alone decides, so every checkpoint has the same."""

from __future__ import annotations

import random
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.observe import ProbeSet, measure
from limberlm.observe.forward.selection import Selection
from limberlm.observe.probe.chosen import choose_sequences, choose_tokens
from tests.observe import brute_values as v
from tests.observe.brute import reservoir_rows, rms, stored
from tests.observe.tiny import mixed_probe, random_probe, tiny


def _named(probe: ProbeSet, size: int) -> set[tuple[str, int]]:
    """The chosen tokens as (hash of the sequence, position)."""
    chosen = choose_tokens(probe.sequences, size)
    named = set()
    for index, row in zip(chosen.sequence.tolist(), chosen.row.tolist(), strict=True):
        sequence = probe.sequences[index]
        named.add((sequence.hash, [i for i, keep in enumerate(sequence.keep) if keep][row]))
    return named


@settings(max_examples=25, deadline=None)
@given(
    sequences=st.integers(1, 40),
    longest=st.integers(3, 30),
    size=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_the_choice_holds_kept_tokens_in_reading_order_and_few_of_one_sequence(sequences, longest, size, seed):
    probe = random_probe(sequences, longest, seed=seed)
    chosen = choose_tokens(probe.sequences, size)
    pairs = list(zip(chosen.sequence.tolist(), chosen.row.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert all(0 <= row < probe.sequences[index].kept for index, row in pairs)
    limit = max(2, -(-size // sequences))
    assert len(chosen) == len(pairs) == min(size, sum(min(limit, s.kept) for s in probe.sequences))
    assert max(chosen.sequence.bincount()) <= limit


def test_the_choice_is_that_of_a_second_implementation():
    probe = mixed_probe()
    starts = torch.tensor([0, *(s.kept for s in probe.sequences)]).cumsum(0)
    for size in (100, 2048):
        chosen = choose_tokens(probe.sequences, size)
        assert (starts[chosen.sequence] + chosen.row).tolist() == reservoir_rows(probe.sequences, size).tolist()


def test_the_choice_in_a_sequence_does_not_depend_on_the_others():
    probe = random_probe(30)
    fewer = ProbeSet(probe.sequences[::2], "fewer", 12)
    whole = _named(probe, 60)
    assert whole & {(s.hash, p) for s in fewer.sequences for p in range(12)} <= _named(fewer, 60)


def test_line_order_does_not_change_the_choice():
    probe = mixed_probe()
    shuffled = ProbeSet(tuple(random.Random(3).sample(probe.sequences, len(probe.sequences))), "shuffled", 76)
    assert _named(probe, 300) == _named(shuffled, 300)
    assert choose_tokens(probe.sequences, 300).row.tolist() == choose_tokens(shuffled.sequences, 300).row.tolist()


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_batches_in_any_order_fill_every_place_once(size):
    probe = mixed_probe()
    chosen = choose_tokens(probe.sequences, size)
    lengths = torch.tensor([s.kept for s in probe.sequences])
    order = random.Random(0).sample(range(len(lengths)), len(lengths))
    seen = torch.full((len(chosen), 2), -1)
    for start in range(0, len(order), 5):
        indices = order[start : start + 5]
        starts = lengths[indices].cumsum(0) - lengths[indices]
        rows, places = chosen.of_batch(indices, starts)
        of_row = torch.tensor(indices).repeat_interleave(lengths[indices])
        assert (seen[places] == -1).all()
        seen[places, 0] = of_row[rows]
        seen[places, 1] = rows - starts[[indices.index(i) for i in of_row[rows].tolist()]]
    assert torch.equal(seen, torch.stack([chosen.sequence, chosen.row], 1))


def test_a_batch_without_a_chosen_token_gives_none():
    probe = mixed_probe()
    chosen = choose_tokens(probe.sequences, 1)
    others = [i for i in range(6) if i != int(chosen.sequence[0])]
    rows, places = chosen.of_batch(others, torch.zeros(len(others), dtype=torch.long))
    assert len(rows) == len(places) == 0


def test_sequences_are_chosen_by_hash_and_come_in_reading_order():
    sequences = random_probe(40).sequences
    chosen = choose_sequences(sequences, 10).tolist()
    assert chosen == sorted(chosen)
    assert {sequences[i].hash for i in chosen} == set(sorted(s.hash for s in sequences)[:10])
    assert choose_sequences(sequences).tolist() == list(range(40))


def test_the_selection_names_blocks_domains_and_places():
    probe = mixed_probe()
    for blocks in (16, 8):
        selection = Selection.of(probe, blocks)
        last = [blake2b(torch.tensor(s.ids).numpy().tobytes(), digest_size=16).digest()[-1] for s in probe.sequences]
        assert selection.block.tolist() == [digit % blocks for digit in last]
        assert [selection.domains[k] for k in selection.domain] == [s.domain for s in probe.sequences]
        assert selection.place[selection.sequences].tolist() == list(range(len(selection.sequences)))


def test_of_a_long_probe_the_chosen_tokens_and_sequences_enter_and_no_others(monkeypatch):
    """Medians, trajectories and pooled states are those of a sample; sums are those of all tokens."""
    probe, model = mixed_probe(), tiny(max_position_embeddings=128)
    monkeypatch.setattr("limberlm.observe.forward.selection.TOKENS", 300)
    monkeypatch.setattr("limberlm.observe.forward.selection.choose_sequences", lambda all_: choose_sequences(all_, 24))
    names = ["entropy", "layer_velocity", "curvature", "homogeneity_within", "effective_rank", "massive_tokens"]
    geometry = measure(model, probe, metrics=names)
    seen = stored(model, probe)
    tokens, sequences = reservoir_rows(probe.sequences, 300), choose_sequences(probe.sequences, 24).tolist()
    predicting = tokens[seen.predicts[tokens]]
    entropies = v.token_values(seen.logits[predicting])["entropy"]
    moved = np.linalg.norm(seen.states["block.1"] - seen.states["block.0"], axis=1)
    sizes = np.linalg.norm(seen.states["block.0"], axis=1)
    states = rms(seen.states["block.1"])
    curved = [v.curvature(states[seen.sequence == i][:64]) for i in seen.long if i in sequences]
    pooled, domain = seen.pooled(states)[sequences], seen.domain[sequences]
    expected = {
        ("logits", "raw", "entropy"): (entropies.mean(), len(predicting), 48),
        ("block.1", "raw", "layer_velocity"): ((moved / sizes)[tokens].mean(), 300, 48),
        ("block.1", "rms", "curvature"): (np.mean(curved), probe.n_tokens, len(curved)),
        ("block.1", "rms", "homogeneity_within"): (
            v.homogeneity(pooled, domain, pooled.mean(0), same=True),
            probe.n_tokens,
            24,
        ),
        ("block.1", "rms", "effective_rank"): (v.exp_entropy(v.spectrum(states)), probe.n_tokens, 48),
    }
    assert 0 < len(curved) < len(seen.long)
    table = geometry.table.set_index(["site", "convention", "metric"])
    for key, (value, tokens_in, sequences_in) in expected.items():
        assert table.loc[key, "value"] == pytest.approx(value, rel=1e-5), key
        assert (table.loc[key, "n_tokens"], table.loc[key, "n_sequences"]) == (tokens_in, sequences_in), key
