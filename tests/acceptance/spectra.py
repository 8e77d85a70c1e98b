"""Spectra in closed form, exponents, and the invariances of metrics of spectra."""

from __future__ import annotations

from math import exp

import numpy as np
import torch
from torch import Tensor

from limberlm.geometry import effective_rank, eigenvalues, participation_ratio, rankme, stable_rank, variance_share
from limberlm.geometry.alpha import power_law as fitted
from limberlm.geometry.spectrum import head_removed_rank, isoscore
from tests.acceptance.table import Got, Row, both, near, tiny, within
from tests.geometry.clouds import moments, normal, power_law, rotation

PLUG_IN = (effective_rank, rankme, participation_ratio, stable_rank)
SIZES = (64, 128, 256, 512, 1024, 4096)


def of(rows: Tensor) -> Tensor:
    """Eigenvalues of the covariance of rows."""
    return eigenvalues(moments(rows).covariance)


def _isotropic() -> list[list[Tensor]]:
    return [[of(normal(n, 256, seed=seed)) for seed in range(2)] for n in SIZES]


def isotropic_rank() -> Got:
    expected = (0.217, 0.386, 0.604, 0.778, 0.882, 0.969)
    found = [np.mean([effective_rank(e).item() for e in eigs]) / 256 for eigs in _isotropic()]
    return near(found, expected, 0.004)


def isotropic_ratio() -> Got:
    expected = (0.197, 0.331, 0.498, 0.665, 0.799, 0.941)
    found = [np.mean([participation_ratio(e).item() for e in eigs]) / 256 for eigs in _isotropic()]
    return near(found, expected, 0.004)


def power_laws_512() -> Got:
    expected = ((409.555, 117.231, 5.056), (491.730, 409.555, 117.231), (281.653, 28.281, 2.494))
    spectra = [power_law(512, alpha) for alpha in (0.5, 1.0, 2.0)]
    pairs = zip((effective_rank, rankme, participation_ratio), expected, strict=True)
    return both(*(near([metric(e).item() for e in spectra], values, 1e-3) for metric, values in pairs))


def power_laws_wide() -> Got:
    expected = {2048: (281.363, 1587.451, 40.910), 4096: (431.117, 3138.544, 48.108)}
    return both(*(near([m(power_law(d, 1.0)).item() for m in PLUG_IN[:3]], v, 1e-3) for d, v in expected.items()))


def power_laws_1536() -> Got:
    expected = ((0.779, 0.153, 0.0126), (0.958, 0.779, 0.445), (0.487, 0.0248, 0.00355))
    spectra = [power_law(1536, alpha) for alpha in (0.5, 1.0, 1.5)]
    pairs = zip(PLUG_IN[:3], expected, strict=True)
    return both(*(within([m(e).item() / 1536 for e in spectra], [(v, 4e-3) for v in vs], 3) for m, vs in pairs))


def closed_forms() -> Got:
    geometric = exp(-0.1) ** torch.arange(2000, dtype=torch.float64)
    spectra = [geometric, *(_levels(d, k, w) for d, k, w in ((1000, 10, 0.5), (2048, 32, 0.9)))]
    expected = ((27.19414, 20.01666), (198.99749, 39.6), (67.029468, 39.498433))
    values = [[effective_rank(e).item(), participation_ratio(e).item()] for e in spectra]
    return both(*(near(found, wanted, 1e-5, 5) for found, wanted in zip(values, expected, strict=True)))


def _levels(d: int, k: int, share: float) -> Tensor:
    return torch.cat([torch.full((k,), share / k), torch.full((d - k,), (1 - share) / (d - k))]).double()


def sink() -> Got:
    spectra = []
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        bulk = torch.full((1000,), (1 - share) / 1000, dtype=torch.float64)
        spectra.append(torch.cat([torch.tensor([share], dtype=torch.float64), bulk]))
    expected = [(value, 2e-3) for value in (693.7, 312.0, 63.2, 9.87, 2.76)]
    removed = max(abs(head_removed_rank(e, 1).item() - 1000) for e in spectra)
    return both(within([effective_rank(e).item() for e in spectra], expected), tiny(removed, 1e-6, "removed, off by"))


def flat() -> Got:
    errors = []
    for k in (1, 7, 50):
        eigs = torch.full((k,), 3.0, dtype=torch.float64)
        wider = torch.cat([eigs, torch.zeros(30)])
        errors += [abs(metric(e).item() / k - 1) for metric in PLUG_IN for e in (eigs, wider)]
    return tiny(max(errors), 1e-12)


def identities() -> Got:
    spectra = [normal(40, seed=seed).exp() for seed in range(200)]
    score = max(abs(isoscore(e).item() - (participation_ratio(e).item() - 1) / 39) for e in spectra)
    product = max(abs(stable_rank(e) * variance_share(e, 1) - 1).item() for e in spectra)
    ranks = [
        [metric(e).item() for metric in (stable_rank, participation_ratio, effective_rank, rankme)] for e in spectra
    ]
    ordered = sum(sorted(values) == values for values in ranks)
    return both(tiny(max(score, product), 1e-12), Got(f"{ordered} of 200 spectra in order", ordered == 200))


def exponents() -> Got:
    ranks = torch.arange(1, 601, dtype=torch.float64)
    laws = [(alpha, fitted(ranks**-alpha)) for alpha in (0.3, 1.0, 1.3, 2.5)]
    error = max(max(abs(fit.alpha.item() - alpha), abs(fit.r_squared.item() - 1)) for alpha, fit in laws)
    curved = fitted(torch.exp(-0.02 * ranks))
    flag = Got("curvature flagged" if curved.curved else "no flag", curved.curved)
    return both(tiny(error, 1e-9), near([curved.alpha.item()], [0.76362], 1e-5, 5), flag)


def invariances() -> Got:
    """Rotation, scale, translation, row order and duplication, on states of moderate offset."""
    rows = normal(200, 24, seed=0) * power_law(24, 1.0).sqrt() + 1
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    plain = [metric(of(rows)).item() for metric in PLUG_IN]
    errors = []
    for changed in (rows @ rotation(24, 2), 7 * rows, rows + 3, rows[order], rows.repeat(3, 1)):
        errors += [abs(m(of(changed)).item() / value - 1) for m, value in zip(PLUG_IN, plain, strict=True)]
    return tiny(max(errors), 1e-10)


ROWS = (
    Row(
        "isotropic d = 256, n = 64, 128, 256, 512, 1024, 4096: effective rank / d",
        "0.217, 0.386, 0.604, 0.778, 0.882, 0.969 (± 0.004)",
        ("geometry/test_spectrum.py::test_isotropic_rows_read_low_by_the_known_amount",),
        isotropic_rank,
    ),
    Row(
        "the same, participation ratio / d (plug-in)",
        "0.197, 0.331, 0.498, 0.665, 0.799, 0.941 (± 0.004)",
        ("geometry/test_spectrum.py::test_isotropic_rows_read_low_by_the_known_amount",),
        isotropic_ratio,
    ),
    Row(
        "power law d = 512, alpha 0.5 / 1 / 2: effective rank; RankMe; participation ratio",
        "409.555, 117.231, 5.056; 491.730, 409.555, 117.231; 281.653, 28.281, 2.494 (1e-3)",
        ("geometry/test_spectrum.py::test_power_laws_give_their_closed_forms",),
        power_laws_512,
    ),
    Row(
        "power law alpha 1, d = 2048; d = 4096: the same three",
        "281.363, 1587.451, 40.910; 431.117, 3138.544, 48.108 (1e-3)",
        ("geometry/test_spectrum.py::test_power_laws_give_their_closed_forms",),
        power_laws_wide,
    ),
    Row(
        "power law d = 1536, alpha 0.5 / 1 / 1.5: the same three over d",
        "0.779, 0.153, 0.0126; 0.958, 0.779, 0.445; 0.487, 0.0248, 0.00355 (as printed)",
        ("geometry/test_spectrum.py::test_power_laws_give_their_closed_forms",),
        power_laws_1536,
    ),
    Row(
        "geometric q = e^-0.1; two levels (1000, 10, 0.5); (2048, 32, 0.9): effective rank, participation ratio",
        "27.19414, 20.01666; 198.99749, 39.6; 67.029468, 39.498433 (1e-5)",
        ("geometry/test_spectrum.py::test_geometric_spectrum", "geometry/test_spectrum.py::test_two_level_spectrum"),
        closed_forms,
    ),
    Row(
        "a sink of share 0.1 / 0.25 / 0.5 / 0.75 / 0.9 on 1000 directions, and its removal",
        "693.7, 312.0, 63.2, 9.87, 2.76; 1000 (1e-9 relative)",
        ("geometry/test_spectrum.py::test_a_sink_direction_hides_the_rank_and_its_removal_gives_it_back",),
        sink,
    ),
    Row(
        "flat spectrum of k directions; zero columns appended",
        "k; unchanged",
        ("geometry/test_spectrum.py::test_a_flat_spectrum_of_k_directions_reads_k_and_zero_columns_change_nothing",),
        flat,
    ),
    Row(
        "IsoScore = (PR - 1)/(d - 1) and stable rank x VE_1 = 1; order of the ranks",
        "1e-12; always",
        (
            "geometry/test_spectrum.py::test_isoscore_is_a_view_of_the_participation_ratio",
            "geometry/test_spectrum.py::test_stable_rank_is_the_inverse_of_the_top_share_and_shares_add_up",
            "geometry/test_spectrum.py::test_order_of_the_ranks",
        ),
        identities,
    ),
    Row(
        "alpha of exact power laws and its R^2; of exp(-0.02 i)",
        "exact, 1; 0.76362 and a flag for curvature",
        (
            "geometry/test_alpha.py::test_power_laws_give_their_exponent_in_any_window",
            "geometry/test_alpha.py::test_an_exponential_spectrum_is_fitted_too_and_flagged",
        ),
        exponents,
    ),
)
