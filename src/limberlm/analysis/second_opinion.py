"""A second opinion on phases, by piecewise linear regression: printed beside ours, never deciding."""

from __future__ import annotations

from itertools import pairwise
from math import inf, log

from limberlm.analysis.curve import Curve

MOST_BREAKS = 4
MIN_SIZE = 3


def second_opinion(curve: Curve) -> str:
    """The pattern that continuous straight pieces give, such as "F R F".

    0 to 4 breaks by `ruptures.Dynp(model="clinear")`, their number by BIC (each break is two parameters), pieces that
    slope the same way taken together. It has no word for a flat curve, and invents short last pieces.
    """
    from ruptures import Dynp  # here, so that only who asks pays for the import

    search = Dynp(model="clinear", min_size=MIN_SIZE, jump=1).fit(curve.y)
    n = len(curve)
    best, ends = inf, [n]
    for breaks in range(min(MOST_BREAKS, n // MIN_SIZE - 1) + 1):
        found = search.predict(breaks) if breaks else [n]
        error = search.cost.sum_of_costs(found)
        score = n * log(max(error, 1e-18) / n) + (2 * breaks + 2) * log(n)
        if score < best:
            best, ends = score, found
    letters = ["R" if curve.y[end - 1] > curve.y[max(start - 1, 0)] else "F" for start, end in pairwise([0, *ends])]
    return " ".join(letter for i, letter in enumerate(letters) if i == 0 or letter != letters[i - 1])
