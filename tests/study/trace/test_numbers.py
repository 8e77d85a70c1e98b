"""Numbers of 2509.23024 and of its reference, through the functions that a trace calls."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch

from limberlm.geometry import effective_rank, eigenvalues, jackknife, participation_ratio, rankme
from limberlm.geometry.spectrum import head_removed_rank
from limberlm.observe.model.sites import locate
from limberlm.observe.names import FINAL_NORM
from tests.observe.tiny import random_probe, tiny


def power_law(alpha: float, width: int) -> torch.Tensor:
    return torch.arange(1, width + 1, dtype=torch.float64) ** -alpha


def two_levels(share: float, count: int, width: int) -> torch.Tensor:
    low = torch.full((width - count,), (1 - share) / (width - count), dtype=torch.float64)
    return torch.cat([torch.full((count,), share / count, dtype=torch.float64), low])


POPULATION = [
    (power_law(0.5, 512), 409.5545, 491.7295, 281.6530),
    (power_law(1.0, 512), 117.2312, 409.5545, 28.2808),
    (power_law(2.0, 512), 5.0561, 117.2312, 2.4941),
    (power_law(1.0, 2048), 281.3626, 1587.4508, 40.9099),
    (power_law(1.0, 4096), 431.1169, 3138.5443, 48.1081),
    (two_levels(0.5, 10, 1000), 198.9975, None, 39.6),
    (two_levels(0.9, 32, 2048), 67.02947, None, 39.4984),
    (torch.tensor([4.0, 2.0, 1.0, 1.0]).double(), 3.363586, 3.828427, 64 / 22),
]


@pytest.mark.parametrize(("spectrum", "rank", "sigma", "ratio"), POPULATION)
def test_population_values_are_those_of_the_table(
    spectrum: torch.Tensor, rank: float, sigma: float | None, ratio: float
) -> None:
    """As printed: half a unit of the last digit."""
    assert effective_rank(spectrum).item() == pytest.approx(rank, abs=6e-5)
    assert participation_ratio(spectrum).item() == pytest.approx(ratio, abs=6e-5)
    if sigma is not None:
        assert rankme(spectrum).item() == pytest.approx(sigma, abs=6e-5)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.7, 3.0])
def test_rankme_of_a_power_law_is_effective_rank_at_half_the_exponent(alpha: float) -> None:
    whole, half = power_law(alpha, 700), power_law(alpha / 2, 700)
    assert rankme(whole).item() == pytest.approx(effective_rank(half).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.1, 693.716), (0.25, 312.046), (0.5, 63.2456), (0.75, 9.86777), (0.9, 2.76173)]
)
def test_one_direction_of_share_w_takes_1000_dimensions_and_its_removal_brings_them_back(
    share: float, expected: float
) -> None:
    """e^h(w) 1000^(1 - w)."""
    spectrum = torch.cat(
        [torch.tensor([share], dtype=torch.float64), torch.full((1000,), (1 - share) / 1000, dtype=torch.float64)]
    )
    entropy = -share * log(share) - (1 - share) * log(1 - share)
    assert effective_rank(spectrum).item() == pytest.approx(exp(entropy) * 1000 ** (1 - share), rel=1e-9)
    assert effective_rank(spectrum).item() == pytest.approx(expected, rel=1e-5)
    assert head_removed_rank(spectrum, 1).item() == pytest.approx(1000, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "truth"), [(0.5, 209.03), (1.0, 74.63)])
def test_the_block_jackknife_finds_the_rank_that_512_rows_of_256_dimensions_hide(alpha: float, truth: float) -> None:
    """40 draws: within 1 % of the truth on average, and in the interval in 85 % of them or more."""
    scale = power_law(alpha, 256).sqrt()
    assert effective_rank(power_law(alpha, 256)).item() == pytest.approx(truth, abs=0.006)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        blocks = (torch.from_numpy(rng.standard_normal((512, 256))) * scale).reshape(16, 32, 256)
        first = blocks.sum(1)
        second = blocks.transpose(1, 2) @ blocks

        def rank(left_out: int | None = None, first: torch.Tensor = first, second: torch.Tensor = second) -> float:
            kept = [b for b in range(16) if b != left_out]
            count = 32 * len(kept)
            mean = first[kept].sum(0) / count
            return effective_rank(eigenvalues(second[kept].sum(0) / count - torch.outer(mean, mean))).item()

        found.append(jackknife(rank(), [rank(b) for b in range(16)], scale="log"))
    centre = float(np.mean([log(one.corrected) for one in found]))
    assert exp(centre) == pytest.approx(truth, rel=0.01)
    assert 0.85 <= np.mean([one.low <= truth <= one.high for one in found]) <= 1.0
    assert np.mean([one.value for one in found]) < 0.95 * truth


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_final_norm_is_the_last_of_hidden_states_and_the_last_block_is_not(name: str) -> None:
    model = tiny(name)
    sites = locate(model)
    last = f"block.{len(sites.blocks) - 1}"
    ids = torch.tensor([random_probe().sequences[-1].ids])
    with torch.no_grad(), sites.reading([last, FINAL_NORM]) as states:
        sites.forward(input_ids=ids)
        read = {site: state.clone() for site, state in states.items()}
        whole = model(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(read[FINAL_NORM], whole)
    assert not torch.allclose(read[last], whole, atol=1e-3)
