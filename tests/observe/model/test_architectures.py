from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.observe.architectures import (
    IDS,
    LEFT_PADDING_IS_READ,
    MEASURED,
    REFUSED,
    WIDTH,
    inputs,
    page,
    read,
    refusal,
    states_of,
)

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "architectures.md"
WITHOUT_EMBED = {"mamba", "mamba2", "falcon_mamba", "rwkv"}  # they tell the last block instead


@pytest.mark.parametrize("name", MEASURED)
def test_sites_are_the_models_own_hidden_states(name):
    found = read(name)
    assert {tuple(state.shape) for state in found.states.values()} == {(*IDS.shape, WIDTH)}
    last = f"block.{len(found.sites.blocks) - 1}"
    missing = "embed" if name in WITHOUT_EMBED else last
    told = [site for site in found.sites.names() if site != missing]
    for site, own in zip(told, found.hidden, strict=True):
        torch.testing.assert_close(found.states[site], own, msg=lambda text, site=site: f"{site}: {text}")
    with torch.no_grad():
        torch.testing.assert_close(found.sites.final_norm(found.states[last]), found.states["final_norm"])
    assert not torch.allclose(found.states[last], found.states["final_norm"])


def padded(ids, side, pads=4):
    """`ids` behind or before `pads` tokens that are not to be read, and the mask that says so."""
    noise, off = torch.full((len(ids), pads), 9), torch.zeros(len(ids), pads, dtype=torch.long)
    rows, masks = (
        ((noise, ids), (off, torch.ones_like(ids)))
        if side == "left"
        else (
            (ids, noise),
            (torch.ones_like(ids), off),
        )
    )
    return torch.cat(rows, 1), torch.cat(masks, 1)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", MEASURED)
def test_padding_on_either_side_keeps_the_states_of_the_tokens(name, side):
    found = read(name)
    short = IDS[:1, :3]
    alone = states_of(found.sites, **inputs(short))
    ids, mask = padded(short, side)
    # beside a row without padding, as in a batch
    together = states_of(found.sites, **inputs(torch.cat([IDS[1:], ids]), torch.cat([torch.ones_like(ids), mask])))
    differences = [
        float(torch.cat([together[site][1][mask[0] == 1] - alone[site][0], together[site][0] - full[1]]).abs().max())
        / float(full.abs().max())
        for site, full in found.states.items()
    ]
    if side == "left" and name in LEFT_PADDING_IS_READ:
        assert max(differences) > 1e-3
    else:
        assert max(differences) < 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_by_name_in_one_line(name):
    message = refusal(name)
    kind, _, reason = message.partition(": ")
    assert kind.isidentifier()
    assert reason
    assert "\n" not in message


def test_the_page_tells_what_the_tests_found():
    assert PAGE.read_text() == page(), "python -m tests.observe.architectures > docs/reference/architectures.md"
