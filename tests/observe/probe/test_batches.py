"""A probe as batches: which tokens reach the model, where, and which states count."""

from __future__ import annotations

import pytest
import torch

from limberlm.observe import ProbeSequence
from limberlm.observe.probe.batches import batches, padded
from tests.observe.tiny import mixed_probe, random_probe

CPU = torch.device("cpu")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("blocks", [16, 8, 1])
@pytest.mark.parametrize("size", [1, 5, 16])
def test_every_sequence_comes_once_with_its_block_and_its_kept_tokens(side, blocks, size):
    probe = mixed_probe()
    seen, order = [], []
    for number, batch in enumerate(batches(probe, size, side, CPU, blocks)):
        assert batch.number == number
        assert len(batch.sequences) == len(batch.indices) <= size
        assert {sequence.block % blocks for sequence in batch.sequences} == {batch.block}
        kept = batch.inputs["input_ids"].flatten()[batch.kept]
        wanted = [token for s in batch.sequences for token, keep in zip(s.ids, s.keep, strict=True) if keep]
        assert kept.tolist() == wanted
        assert batch.lengths.tolist() == [sequence.kept for sequence in batch.sequences]
        assert batch.starts.tolist() == [sum(batch.lengths[:i]) for i in range(len(batch.lengths))]
        owners = [i for i, s in enumerate(batch.sequences) for _ in range(s.kept)]
        assert [batch.sequence_of(row) for row in range(len(owners))] == [batch.sequences[i] for i in owners]
        seen += batch.indices
        order.append(batch.block)
    assert sorted(seen) == list(range(len(probe.sequences)))
    assert order == sorted(order), "a block is read to its end before the next begins"


def test_a_batch_holds_sequences_of_near_equal_length():
    probe = mixed_probe()
    for blocks in (16, 4):
        parts: dict[int, list[int]] = {}
        for batch in batches(probe, 3, "right", CPU, blocks):
            parts.setdefault(batch.block, []).extend(len(s.ids) for s in batch.sequences)
        assert all(lengths == sorted(lengths) for lengths in parts.values())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_masked_and_never_kept(side):
    sequences = random_probe(6, 12).sequences
    inputs, keep = padded(sequences, side)
    longest = max(len(s.ids) for s in sequences)
    assert {tuple(t.shape) for t in (*inputs.values(), keep)} == {(6, longest)}
    for row, sequence in enumerate(sequences):
        real = inputs["attention_mask"][row].bool()
        assert inputs["input_ids"][row][real].tolist() == list(sequence.ids)
        assert keep[row][real].tolist() == list(sequence.keep)
        assert not keep[row][~real].any()
        assert inputs["position_ids"][row][real].tolist() == list(range(len(sequence.ids)))
        assert inputs["input_ids"][row][~real].unique().tolist() in ([], [sequence.ids[-1]]), "a token that was read"
        edge = real[0] if side == "right" else real[-1]
        assert bool(edge)


def test_the_last_kept_token_is_the_last_row_of_a_sequence_on_either_side():
    sequences = (
        ProbeSequence((5, 6, 7, 0), "text", (False, True, True, False)),
        ProbeSequence((5, 8), "text", (False, True)),
    )
    for side in ("left", "right"):
        inputs, keep = padded(sequences, side)
        rows = inputs["input_ids"].flatten()[keep.flatten()]
        assert rows[torch.tensor([2, 1]).cumsum(0) - 1].tolist() == [7, 8]
