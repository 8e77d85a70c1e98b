"""How far a number may move to its harmful side, and what an interval says of that."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, isnan
from typing import Literal

from limberlm.errors import UserError
from limberlm.geometry.catalog import metric

State = Literal["inside", "outside", "cannot tell"]
Harm = Literal["down", "up"]
Kind = Literal["relative", "absolute"]
Scale = Literal["log", "linear"]


@dataclass(frozen=True)
class Margin:
    """The change a number may make from its start to its harmful side.

    Attributes:
        size: above 0; a share of the start's value, or in the number's own unit.
        kind: "relative" or "absolute".
        harm: the way the number goes when things get worse.
        scale: of the changes: "log" where they are ratios (1 is no change), "linear" for differences (0 is none).
    """

    size: float
    kind: Kind = "relative"
    harm: Harm = "down"
    scale: Scale = "log"

    def __post_init__(self) -> None:
        if not (isfinite(self.size) and self.size > 0):
            raise UserError(f"margin={self.size}: must be a finite number above 0")

    def bound(self, start: float) -> float:
        """The last change inside the margin, a ratio or a difference, of a number that was `start`.

        Raises:
            UserError: there is none: the margin is larger than the number itself, or a share of 0.

        >>> Margin(0.05).bound(120.0), Margin(6.0, "absolute").bound(120.0)
        (0.95, 0.95)
        >>> Margin(0.02, "absolute", "up", "linear").bound(0.1)
        0.02
        """
        sign = 1 if self.harm == "up" else -1
        if self.scale == "linear":
            found = sign * (self.size if self.kind == "absolute" else self.size * abs(start))
            if found == 0 or isnan(found):
                raise UserError(f"margin={self.size}: relative to a start of {start} there is none; make it absolute")
            return found
        found = 1 + sign * (self.size / start if self.kind == "absolute" else self.size)
        if not found > 0:
            raise UserError(f"margin={self.size}: no fall of a number that is {start:.4g} goes that far; give less")
        return found

    def state(self, low: float, high: float, start: float) -> State:
        """What the interval of a change says: the harmful end decides, and the other one whether it can be told.

        "inside": the whole interval is, as far as harm goes. "outside": the harmful end is beyond the bound, and no
        change is not in the interval. "cannot tell": the interval holds no change and what is beyond the bound, so
        the sample is too small for this margin; or there is no interval (NaN). Our choice.

        >>> margin = Margin(0.05)
        >>> [margin.state(*interval, start=100.0) for interval in [(0.96, 1.2), (0.93, 0.98), (0.93, 1.02)]]
        ['inside', 'outside', 'cannot tell']
        """
        if isnan(low) or isnan(high):
            return "cannot tell"
        sign, none = (1 if self.harm == "up" else -1), (1.0 if self.scale == "log" else 0.0)
        worst, best = sorted((low, high), key=lambda end: sign * end, reverse=True)
        if sign * worst <= sign * self.bound(start):
            return "inside"
        return "outside" if sign * best > sign * none else "cannot tell"


def metric_margin(name: str, size: float, kind: Kind, harm: Harm | None = None) -> Margin:
    """A margin of a metric of the catalog; which way is harm is the catalog's unless it is given.

    Raises:
        UserError: no such metric; it has no interval; or neither the catalog nor `harm` says which way is harm.
    """
    try:
        record = metric(name)
    except KeyError as error:
        raise UserError(f"metric: {error.args[0]}") from None
    if not record.has_interval:
        raise UserError(f"metric: {name} has no interval, which is what decides; choose another")
    side = harm or (record.direction if record.direction != "drift" else None)
    if side is None:
        raise UserError(f'metric: {name} has no harmful side in the catalog; give harm="down" or harm="up"')
    return Margin(size, kind, side, record.scale)
