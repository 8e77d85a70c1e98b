"""The power table, against statsmodels and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr

from limberlm.analysis.prediction.power import detectable, exact_power, power_table, units_needed, units_to_settle


def test_the_power_table() -> None:
    table = power_table().set_index("r")
    assert table["n"].tolist() == [194, 85, 47, 30, 20]
    assert table["n_90"].tolist() == [259, 113, 62, 38, 25]
    assert table["n_adjusted"].tolist() == [298, 130, 71, 44, 29]
    assert table["exact"].tolist() == pytest.approx([0.802, 0.804, 0.811, 0.828, 0.836], abs=0.002)
    assert exact_power(0.5, 29) == pytest.approx(0.815, abs=0.002)


def test_the_smallest_detectable_correlations() -> None:
    found = [detectable(n) for n in (9, 12, 18, 24, 36, 48)]
    assert found == pytest.approx([0.82, 0.73, 0.62, 0.55, 0.45, 0.395], abs=0.006)
    assert math.isnan(detectable(3))
    assert all(units_needed(r) in (n, n + 1) for r, n in zip(found, (9, 12, 18, 24, 36, 48), strict=True))


def test_exact_power_is_what_draws_say() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 4000, 15))
    y = 0.6 * x + 0.8 * noise
    share = np.mean(pearsonr(x, y, axis=1).pvalue < 0.05)
    assert exact_power(0.6, 15) == pytest.approx(share, abs=0.02)
    assert exact_power(0.0, 15) == pytest.approx(0.05)


def test_units_that_would_settle_a_gain() -> None:
    assert units_to_settle(0.09 * 0.6, 0.4) == 85  # a partial correlation of 0.3
    assert math.isinf(units_to_settle(-0.01, 0.4))
    with pytest.raises(ValueError, match="r is 1"):
        units_needed(1.0)
