"""What a pass may take in memory, and what it gives up: batches first, then blocks, then sites, then the pass."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from limberlm.errors import UserError
from limberlm.observe import ProbeSet, locate, measure
from limberlm.observe.forward.budget import FEWEST_BLOCKS, Choice, fitted, parsed
from limberlm.observe.forward.request import Request
from limberlm.observe.names import band_sites
from tests.observe.tiny import WIDTH, assert_same_bits, mixed_probe, random_probe, tiny, word_tokenizer

PROBE = random_probe(40, domains=("math", "prose"))
REQUEST = Request.of().headless
DEEP = 8
QUICK = ["participation_ratio_debiased", "anisotropy"]


@pytest.fixture(scope="module")
def model():
    return tiny(num_hidden_layers=DEEP)


def _fitted(model, memory, *, request=REQUEST, layers_given=False, reference=False, probe=PROBE):
    sites = locate(model)
    asked = Choice(16, 16, tuple(sites.names()))
    return fitted(sites, probe, request, asked, memory, layers_given=layers_given, reference=reference)


def test_of_several_processes_each_holds_a_part_of_the_blocks(model):
    sites = locate(model)
    asked = Choice(16, 16, tuple(sites.names()))
    fits = {"layers_given": False, "reference": True}
    one, four = (fitted(sites, PROBE, REQUEST, asked, 2**40, **fits, processes=count) for count in (1, 4))
    assert four.on_device == one.on_device
    d, rows = WIDTH, len(REQUEST.collected) * len(asked.names)
    assert one.on_host - four.on_host == 12 * rows * (2 * d * (d + 1) // 2 + d * d) * 4


def _ladder(model, **options):
    """(memory, choice) from plenty down to the last that fits, and the error after it."""
    memory, found = _needed(_fitted(model, 2**40, **options)), []
    while True:
        try:
            choice = _fitted(model, memory, **options)
        except UserError as error:
            return found, str(error)
        found.append((memory, choice))
        memory = _needed(choice) - 1


def _needed(choice):
    return choice.on_device + choice.on_host


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(
            ("800MB", 800 * 2**20),
            ("6G", 6 * 2**30),
            ("1.5gb", 3 * 2**29),
            ("6GiB", 6 * 2**30),
            (" 12 kb ", 12 * 2**10),
        ),
        *(("2TB", 2**41), ("4096", 4096), (4096, 4096), (2.0**30, 2**30), (None, None)),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parsed(text) == size


@pytest.mark.parametrize(
    "text", ["", "much", "6 apples", "-1GB", "0", "0GB", "1e9", "GB", "1,5GB", 0, -5, float("nan")]
)
def test_what_is_no_size_is_refused_with_the_field(text):
    with pytest.raises(UserError, match=rf'^memory: "{re.escape(str(text))}" is not a size; give one such as 6GB'):
        parsed(text)


@pytest.mark.parametrize("layers_given", [False, True])
def test_batches_go_first_then_blocks_then_sites_then_the_pass(model, layers_given):
    ladder, error = _ladder(model, layers_given=layers_given)
    told = [(choice.batch_size, choice.blocks, len(choice.names)) for _, choice in ladder]
    sizes = [(b, 16, DEEP + 2) for b in (16, 8, 4, 2, 1)] + [(1, FEWEST_BLOCKS, DEEP + 2)]
    assert told[:6] == sizes
    thinner = [sites for *_, sites in told[6:]]
    assert all(rest[:2] == [1, FEWEST_BLOCKS] for rest in map(list, told[6:]))
    assert thinner == ([] if layers_given else sorted(set(thinner), reverse=True))
    smallest = ladder[-1][1]
    if not layers_given:
        assert list(smallest.names) == ["embed", *band_sites(DEEP), "final_norm"]
    assert re.fullmatch(
        r"memory: the pass needs [\d.e-]+ GiB at least and may take [\d.e-]+; "
        r"give fewer layers, a shorter max_length, or more memory",
        error,
    )


@pytest.mark.parametrize(
    "options", [{}, {"reference": True}, {"request": Request.of(suite="full")}, {"request": Request.of()}]
)
def test_every_choice_fits_what_it_was_given_and_says_what_it_needs(model, options):
    ladder, _ = _ladder(model, **options)
    assert len(ladder) > 3
    for memory, choice in ladder:
        assert choice.on_device > 0
        assert choice.on_host > 0
        assert _needed(choice) <= memory
    assert [_needed(choice) for _, choice in ladder] == sorted((_needed(c) for _, c in ladder), reverse=True)


def test_every_site_of_a_thinner_choice_keeps_the_band_and_both_ends(model):
    ladder, _ = _ladder(model)
    for _, choice in ladder:
        assert {"embed", *band_sites(DEEP), "final_norm"} <= set(choice.names)
        assert list(choice.names) == [name for name in locate(model).names() if name in choice.names]


def test_more_is_asked_for_more(model):
    plain = _fitted(model, 2**40)
    for options in (
        {"reference": True},
        {"request": Request.of(suite="full").headless},
        {"request": Request.of()},
        {"probe": mixed_probe()},
    ):
        assert _needed(_fitted(model, 2**40, **options)) > _needed(plain), options


def test_without_a_number_most_of_what_is_free_may_be_taken(model, monkeypatch):
    third = _ladder(model)[0][2][1]
    free = SimpleNamespace(available=int(_needed(third) / 0.8) + 2)
    monkeypatch.setattr("limberlm.observe.forward.budget.psutil.virtual_memory", lambda: free)
    assert _fitted(model, None) == third


def test_smaller_memory_changes_the_run_and_the_manifest_says_so(model):
    options = {"metrics": QUICK}
    asked = Request.of().only(QUICK).possible(head=True, units=False, reference=False)
    ladder, error = _ladder(model, request=asked)
    plenty = measure(model, PROBE, **options)
    assert not [flag for flag in plenty.manifest["flags"] if flag.startswith("memory")]
    by_step = {}
    for memory, choice in (ladder[1], ladder[4], ladder[5], ladder[-1]):
        geometry = measure(model, PROBE, memory=memory, **options)
        manifest = geometry.manifest
        assert manifest["batch_size"] == choice.batch_size
        assert manifest["memory"] == {"on_device": choice.on_device, "on_host": choice.on_host}
        assert manifest["convention"]["jackknife_blocks"] == choice.blocks
        assert manifest["convention"]["sites"] == list(choice.names)
        told = [flag for flag in manifest["flags"] if flag.startswith("memory: ")]
        assert told[0] == f"memory: batches of {choice.batch_size} instead of 16 sequences"
        assert len(told) == 1 + (choice.blocks != 16) + (len(choice.names) != DEEP + 2)
        assert {len(values) for values in geometry.table["replicates"]} == {choice.blocks}
        by_step[choice.batch_size, choice.blocks, len(choice.names)] = geometry
    assert sum(flag.startswith("memory: not read: block.") for flag in told) == 1
    for geometry in list(by_step.values())[:2]:
        for name, bound in (("value", 1e-6), ("low", 15e-6), ("high", 15e-6), ("std_error", 15e-6)):
            np.testing.assert_allclose(geometry.table[name], plenty.table[name], rtol=bound, atol=bound, err_msg=name)
    with pytest.raises(UserError, match=r"^memory: the pass needs") as caught:
        measure(model, PROBE, memory=_needed(ladder[-1][1]) - 1, **options)
    assert str(caught.value) == error


def test_blocks_that_were_halved_hold_the_same_rows(model):
    """Hash mod 8 joins blocks b and b + 8, so plug-in values do not move."""
    asked = Request.of().only(QUICK).possible(head=True, units=False, reference=False)
    ladder, _ = _ladder(model, request=asked)
    halved = next(choice for _, choice in ladder if choice.blocks == FEWEST_BLOCKS)
    few = measure(model, PROBE, memory=_needed(halved), metrics=["effective_rank"])
    many = measure(model, PROBE, metrics=["effective_rank"])
    np.testing.assert_allclose(
        few.table[~few.table["metric"].str.endswith("corrected")]["value"],
        many.table[~many.table["metric"].str.endswith("corrected")]["value"],
        rtol=1e-6,
    )
    assert few.table["low"].notna().all(), "eight blocks still give an interval"
    assert few.manifest["convention"]["blocks"] == sorted({s.block % 8 for s in PROBE.sequences})


def test_a_batch_larger_than_the_probe_is_a_batch_of_the_probe():
    one, other = (measure(tiny(), PROBE, metrics=QUICK, batch_size=size, layers=[1]) for size in (64, 10_000))
    assert_same_bits(one.table, other.table)


def test_sequences_over_the_context_are_cut_and_counted_in_the_manifest():
    probe = mixed_probe()  # a third of it is longer than the 64 positions
    geometry = measure(tiny("gpt2"), probe, metrics=QUICK, layers=[1])
    long = sum(len(s.ids) > 64 for s in probe.sequences)
    assert geometry.manifest["probe"]["cut"] == long == 16
    assert geometry.manifest["convention"]["max_length"] == 64
    ready = ProbeSet(tuple(s.cut_to(64) for s in probe.sequences), "cut by hand", 64)
    assert geometry.manifest["probe"]["digest"] == ready.digest
    assert_same_bits(geometry.table, measure(tiny("gpt2"), ready, metrics=QUICK, layers=[1]).table)


def test_texts_are_cut_at_the_context_too():
    rows = [{"text": "a" * n} for n in (10, 70, 100)]
    options = {"tokenizer": word_tokenizer(), "metrics": QUICK, "layers": [1]}
    manifest = measure(tiny("gpt2"), rows, **options).manifest
    assert (manifest["probe"]["cut"], manifest["convention"]["max_length"]) == (2, 64)
    manifest = measure(tiny("gpt2"), rows, max_length=20, **options).manifest
    assert (manifest["probe"]["cut"], manifest["convention"]["max_length"]) == (2, 20)


def test_a_learned_position_is_never_asked_for_beyond_the_table():
    """OPT's table has two more rows than positions; a model without one has no limit."""
    probe = mixed_probe(long=2)
    assert measure(tiny("opt"), probe, metrics=QUICK, layers=[1]).manifest["probe"]["cut"] == 2
    assert measure(tiny("bloom"), probe, metrics=QUICK, layers=[1]).manifest["probe"]["cut"] == 0
