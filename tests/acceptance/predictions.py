"""Logits, and the null values of trajectories and directions by Monte Carlo."""

from __future__ import annotations

from math import log

import numpy as np
import torch

from limberlm.geometry.averages import mean, median
from limberlm.geometry.domains import domain_separability
from limberlm.geometry.logits import token_values
from limberlm.geometry.pairs import uniformity
from limberlm.geometry.spectrum import eigenvalues
from limberlm.geometry.trajectories import curvature, depth_path, straightness, velocity
from tests.acceptance.table import Got, Row, both, near, tiny
from tests.geometry.clouds import normal
from tests.geometry.test_domains import K, sums_of
from tests.geometry.test_head import D, explicit, head, seen, states
from tests.geometry.test_logits import SIX_TOKENS
from tests.geometry.test_pairs import alone


def small_route() -> Got:
    rows, weight = states(), head()
    expected = torch.linalg.eigvalsh(torch.cov(explicit(rows, weight).T)).flip(0)
    found = eigenvalues(seen(rows, weight).covariance, tolerance=1e-10)
    return tiny(float((found - expected[:D]).abs().max() / expected[0]), 1e-12)


def six_tokens() -> Got:
    probabilities, entropy, margin, top = (list(column) for column in zip(*SIX_TOKENS, strict=True))
    values = token_values(torch.tensor(probabilities, dtype=torch.float64).log())
    bits = {"entropy": entropy, "margin": margin}
    errors = [abs(a - log(2) * b) for name in bits for a, b in zip(values[name].tolist(), bits[name], strict=True)]
    errors += [abs(a - b) for a, b in zip(values["top_mass_1"].tolist(), top, strict=True)]
    errors.append(abs(median(values["entropy"]).item() - log(2) * (entropy[2] + entropy[5]) / 2))
    return tiny(max(errors), 1e-15)


def independent() -> Got:
    free, walk = normal(300, 65, 256, seed=5), normal(300, 65, 256, seed=6).cumsum(1)
    return both(
        near([mean(curvature(free)).item(), mean(curvature(walk)).item()], [120, 90], 0.3, 2),
        near([mean(straightness(free)).item(), mean(straightness(walk)).item()], [0.0156, 0.125], 0.001, 4),
        near([mean(velocity(free)).item()], [2**0.5], 0.005),
    )


def depth() -> Got:
    updates = normal(12, 2000, 256, seed=7)
    path = depth_path(updates.norm(dim=2).sum(0), updates.sum(0).norm(dim=1))
    return near([mean(path).item()], [3.46], 0.03)


def spread() -> Got:
    return near([uniformity(alone(normal(2048, d, seed=4))).item() for d in (64, 256)], [-3.875, -3.969], 0.002)


def permuted() -> Got:
    rows, found = normal(64, 8, seed=7), []
    for seed in range(300):
        order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
        found.append(domain_separability(sums_of(rows, order % K)).item())
    average, expected = float(np.mean(found)), (K - 1) / (64 - K)
    return Got(f"{average:.4f} for {expected:.4f}", abs(average / expected - 1) < 0.04)


ROWS = (
    Row(
        "covariance of the logits, d x d against the explicit n x V",
        "1e-12",
        ("geometry/test_head.py::test_spectra_by_the_small_route_equal_those_of_the_logits",),
        small_route,
    ),
    Row(
        "entropy, margin and top mass of six tokens written by hand",
        "exact",
        ("geometry/test_logits.py::test_six_tokens_written_by_hand_read_exactly_that",),
        six_tokens,
    ),
    Row(
        "independent states and random walks, d = 256: curvature; straightness of 65 points; velocity",
        "120, 90 (± 0.3); 0.0156, 0.125 (± 0.001); 1.414",
        ("geometry/test_trajectories.py::test_independent_states_and_random_walks_read_the_nulls",),
        independent,
    ),
    Row(
        "depth path of 12 independent updates",
        "3.46 (± 0.03)",
        ("geometry/test_trajectories.py::test_independent_updates_read_the_nulls",),
        depth,
    ),
    Row(
        "uniformity of uniform directions, d = 64 / 256",
        "-3.875, -3.969 (± 0.002)",
        ("geometry/test_pairs.py::test_null_is_what_uniform_directions_read",),
        spread,
    ),
    Row(
        "separability of 64 sequences under permuted labels of 4 domains, mean of 300",
        "(K - 1)/(n - K) on average",
        ("geometry/test_domains.py::test_null_of_separability_is_what_permuted_labels_read",),
        permuted,
    ),
)
