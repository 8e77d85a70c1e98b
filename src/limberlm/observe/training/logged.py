"""Which numbers of a geometry a callback logs, and what they are called there."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, isnan
from typing import Any

import pandas as pd

from limberlm.errors import UserError
from limberlm.geometry.catalog import CATALOG, metric
from limberlm.observe.model.sites import locate
from limberlm.observe.names import BAND, EMBED, FINAL_NORM, band_sites
from limberlm.observe.table.comparison import compare
from limberlm.observe.table.geometry import Geometry, headline_site

CHANGES = {"corrected": "", "low": "_low", "high": "_high"}
"""What is logged of a change by default: columns of `compare`'s table, and how their names in the log end."""
_SITE = re.compile(rf"{BAND}|{EMBED}|{FINAL_NORM}|block\.\d+")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """Metrics at sites: `NAME/METRIC` over the depth band or at a metric's only site, `NAME/SITE/METRIC` elsewhere."""

    metrics: tuple[str, ...]
    sites: tuple[str, ...]
    name: str
    changes: tuple[tuple[str, str], ...] = tuple(CHANGES.items())

    @classmethod
    def of(cls, metrics: Sequence[str], sites: Sequence[str], name: str) -> Logged:
        """The chosen numbers, each once.

        Raises:
            UserError: there is no such metric or site, or none is named.
        """
        try:
            chosen = tuple(dict.fromkeys(metric(each).name for each in metrics))
        except KeyError as error:
            raise UserError(f"metrics: {error.args[0]}") from None
        for site in sites:
            if not _SITE.fullmatch(site):
                raise UserError(f'sites: "{site}" is not one; use band, embed, final_norm or block.i')
        for setting, given in (("metrics", chosen), ("sites", sites)):
            if not given:
                raise UserError(f"{setting}: empty; name at least one")
        return cls(chosen, tuple(dict.fromkeys(sites)), name)

    def blocks(self, model: Any) -> list[int]:
        """The blocks of a model that must be read for them."""
        names = band_sites(len(locate(model).blocks)) if BAND in self.sites else []
        names += [site for site in self.sites if site.startswith("block.")]
        return sorted({int(name.removeprefix("block.")) for name in names})

    def values(self, now: Geometry, start: Geometry | None) -> dict[str, float]:
        """Values, and changes since `start`, by their names in the log; what is not finite is left out."""
        changes = None if start is None else compare(start, now).table
        found: dict[str, float] = {}
        for shown, (name, site) in self._chosen.items():
            value = metric_row(now.table, name + ("_corrected" if CATALOG[name].corrected else ""), site)
            if value is not None:
                found[shown] = float(value["value"])
            change = None if changes is None else metric_row(changes, name, site)
            if change is not None:
                for column, ending in self.changes:
                    found[f"{shown}_change{ending}"] = float(change[column])
        return {name: value for name, value in found.items() if isfinite(value)}

    def check(self, geometry: Geometry) -> None:
        """One warning for each number that will not be in the log, or only without its interval.

        Raises:
            UserError: a number is not in the table, and the model is not the reason.
        """
        undefined = geometry.manifest["undefined"]
        for shown, (name, site) in self._chosen.items():
            row, record = metric_row(geometry.table, name, site), CATALOG[name]
            if row is None:
                reason = undefined.get(site if site == record.sites else record.needs)
                if reason is None:
                    raise UserError(f"metrics: {name} is not measured at {site}; choose another, or read more layers")
                _log.warning("%s: %s is not logged: %s", self.name, shown, reason)
                continue
            reason = undefined.get(f"{site}/{row['convention']}/{name}", "undefined")
            if isnan(row["value"]):
                _log.warning("%s: %s is not logged: %s", self.name, shown, reason)
            elif isnan(row["low"]) and record.has_interval:
                _log.warning("%s: %s has no interval: %s", self.name, shown, reason.removeprefix("no interval: "))

    @cached_property
    def _chosen(self) -> dict[str, tuple[str, str]]:
        """Metric and site of each, by its name in the log."""
        chosen = {}
        for name in self.metrics:
            home = headline_site(CATALOG[name])
            for site in self.sites if home == BAND else [home]:
                inner = "" if site in (BAND, home) else f"{site}/"
                chosen[f"{self.name}/{inner}{name}"] = name, site
        return chosen


def metric_row(table: pd.DataFrame, name: str, site: str) -> pd.Series | None:
    """The row of a metric at a site, under the first of the metric's conventions that it has there."""
    rows = table[(table["metric"] == name) & (table["site"] == site) & (table["domain"] == "all")]
    for convention in metric(name).conventions:
        found = rows[rows["convention"] == convention]
        if len(found):
            return found.iloc[0]
    return None
