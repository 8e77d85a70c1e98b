"""The table of a pass: each process summarises some of the sites, and process 0 gets the statistics to store."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from limberlm.geometry import CATALOG, Estimate
from limberlm.observe.forward.observation import Observation
from limberlm.observe.metrics.stored import statistics_of
from limberlm.observe.metrics.summary import Cell, reported, site_cells, with_band
from limberlm.observe.names import FINAL_NORM, LOGITS
from limberlm.observe.together.dealing import dealt, site_loads
from limberlm.observe.together.handing import hand_over
from limberlm.observe.together.processes import Processes


def summarised(seen: Observation, processes: Processes) -> tuple[list[Cell], dict[str, Tensor]]:
    """The cells of all sites and of the depth band, in every process; the statistics of all sites, in process 0 alone.

    `seen` is taken apart: what a process has of a site goes to the one that summarises it.
    """
    hands = dealt(site_loads(seen.sites, seen.request), processes.size)
    owners = {site: rank for rank, sites in enumerate(hands) for site in sites}
    hand_over(seen, owners, processes)
    mine: dict[str, list[Cell]] = {}
    statistics: dict[str, Tensor] = {}
    with processes.agreeing():
        for site in reported(seen):
            if owners[FINAL_NORM if site == LOGITS else site] == processes.rank:
                mine[site] = list(site_cells(seen, site))
        for site in hands[processes.rank]:
            statistics |= statistics_of(seen, site)
    return with_band(seen, _gathered(mine, seen, processes)), _collected(statistics, seen, owners, processes)


def _gathered(mine: dict[str, list[Cell]], seen: Observation, processes: Processes) -> list[Cell]:
    """The cells of every process, in table order."""
    told = processes.gathered({site: [_written(cell) for cell in cells] for site, cells in mine.items()})
    found = {site: cells for part in told for site, cells in part.items()}
    return [_read(cell) for site in reported(seen) for cell in found[site]]


def _written(cell: Cell) -> dict[str, Any]:
    """A cell as JSON: floats keep every digit."""
    return vars(cell) | {"metric": cell.metric.name, "estimate": vars(cell.estimate)}


def _read(written: dict[str, Any]) -> Cell:
    estimate = written["estimate"] | {"replicates": tuple(written["estimate"]["replicates"])}
    return Cell(**{**written, "metric": CATALOG[written["metric"]], "estimate": Estimate(**estimate)})


def _collected(
    mine: dict[str, Tensor], seen: Observation, owners: dict[str, int], processes: Processes
) -> dict[str, Tensor]:
    """The statistics of every site, where this is process 0."""
    found: dict[str, Tensor] = {}
    for site in seen.sites:
        here = {name: part for name, part in mine.items() if name.startswith(f"{site}/")}
        if processes.rank != 0 and owners[site] == processes.rank:
            processes.send(here, to=0)
        elif processes.rank == 0:
            found |= here if owners[site] == 0 else processes.received(owners[site])
    return found
