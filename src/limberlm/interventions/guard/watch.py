"""What a guard logs of its metric, and what it cannot do without."""

from __future__ import annotations

from math import isnan

from limberlm.errors import UserError
from limberlm.observe.table.geometry import Geometry
from limberlm.observe.training.logged import CHANGES, Logged, metric_row

NAME = "guard"
LOGGED = f"limber/{NAME}"


class Watch(Logged):
    """One metric at one site, with the smallest change that its interval could find."""

    @classmethod
    def at(cls, metric: str, site: str) -> Watch:
        """The metric at the site.

        Raises:
            UserError: there is no such metric or site.
        """
        one = Logged.of([metric], [site], LOGGED)
        return cls(one.metrics, one.sites, LOGGED, (*CHANGES.items(), ("detectable", "_detectable")))

    @property
    def shown(self) -> str:
        """Its name in the log."""
        (name,) = self._chosen
        return name

    def check(self, geometry: Geometry) -> None:
        """Refuse a probe that cannot say whether the margin is left.

        Raises:
            UserError: the metric is undefined there, or has no interval.
        """
        ((name, site),) = self._chosen.values()
        row, undefined = metric_row(geometry.table, name, site), geometry.manifest["undefined"]
        reasons = [why for what, why in undefined.items() if what.endswith(f"/{name}") or what == site]
        why = f" ({reasons[0].removeprefix('no interval: ')})" if reasons else ""
        if row is None or isnan(row["value"]):
            raise UserError(f"{NAME}: {name} is undefined at {site} on this probe{why}; choose another")
        if isnan(row["low"]):
            raise UserError(f"{NAME}: {name} has no interval on this probe{why}; give more texts")
