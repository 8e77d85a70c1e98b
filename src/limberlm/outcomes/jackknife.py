"""Items for an outcome that is no mean over items: how much each part of the data pulls the value."""

from __future__ import annotations

from collections.abc import Sequence


def jackknife_items(value: float, without: Sequence[float]) -> list[float]:
    """One item for each of G parts, with mean `value` and the spread that is the value's jackknife error.

    item_g = value + (G - 1) (mean_h without_h - without_g), where `without` holds the value with part g left out: the
    pseudo-values of Quenouille and Tukey, moved so that their mean is the value itself. An outcome row of them has the
    standard error sqrt((G - 1)/G sum_g (without_g - mean)^2), and the differences of two checkpoints' items on the same
    parts are those of the difference, so that comparisons stay paired. Of a mean they are the scores themselves.

    Raises:
        ValueError: fewer than two parts.

    >>> jackknife_items(2.0, [2.5, 2.0, 1.5])
    [1.0, 2.0, 3.0]
    """
    parts = len(without)
    if parts < 2:
        raise ValueError(f"needs two parts to leave out, there {'is' if parts == 1 else 'are'} {parts}")
    centre = sum(without) / parts
    return [value + (parts - 1) * (centre - one) for one in without]
