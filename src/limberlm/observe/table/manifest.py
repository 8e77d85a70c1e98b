"""What was measured and how, beside the numbers."""

from __future__ import annotations

from typing import Any

from limberlm.formats import FORMATS
from limberlm.geometry import CATALOG
from limberlm.observe.forward.observation import Observation
from limberlm.observe.metrics.summary import NO_INTERVAL, Cell
from limberlm.observe.model.sites import Sites
from limberlm.observe.names import BAND, LAST, band_sites
from limberlm.observe.probe.chosen import RESERVOIR, SEQUENCES, TOKENS
from limberlm.observe.probe.probe_set import BLOCKS
from limberlm.version import __version__

FEW_SEQUENCES = 64
NAMED = 3


def manifest_of(
    checkpoint: dict[str, Any],
    observation: Observation,
    cells: list[Cell],
    sites: Sites,
    problems: dict[str, str],
) -> dict[str, Any]:
    """The manifest of a geometry; `convention` holds what two geometries must share to be compared.

    `problems` says why a whole family is missing.
    """
    probe, request = observation.probe, observation.request
    undefined = {f"{c.site}/{c.convention}/{c.metric.name}": c.reason for c in cells if _worth_saying(c)}
    missing = [site for site in band_sites(observation.layers) if site not in observation.sites]
    if missing and not request.preset.final_only:
        undefined[BAND] = f"not read: {', '.join(missing)}"
    return {
        "format": FORMATS["geometry"],
        "limberlm": __version__,
        "checkpoint": checkpoint,
        "probe": {
            "name": probe.name,
            "digest": probe.digest,
            "cut": probe.cut,
            "skipped": probe.skipped,
            "left_out": probe.left_out,
        },
        "convention": {
            "preset": request.preset.name,
            "token_filter": list(probe.token_filter),
            "conventions": list(request.conventions),
            "sites": list(observation.sites),
            "n_tokens": probe.n_tokens,
            "n_sequences": len(probe.sequences),
            "blocks": sorted({sequence.block % request.blocks for sequence in probe.sequences}),
            "jackknife_blocks": request.blocks,
            "reservoir": RESERVOIR,
            "token_sample": TOKENS,
            "sequence_sample": SEQUENCES,
            "max_length": probe.max_length,
            "dtype": ", ".join(sorted(set(observation.dtypes.values()))),
            "attention": str(sites.backbone.config._attn_implementation),
        },
        "suite": request.suite,
        "zero_norm": {site: count for site, count in observation.zero_norm.items() if count},
        "flags": _flags(observation, cells, sites.width),
        "undefined": undefined | problems,
    }


def _worth_saying(cell: Cell) -> bool:
    return bool(cell.reason) and (cell.metric.has_interval or NO_INTERVAL not in cell.reason)


def _flags(observation: Observation, cells: list[Cell], width: int) -> list[str]:
    """What makes the numbers less than they look: too few sequences, blocks or tokens, massive tokens."""
    probe, request = observation.probe, observation.request
    flags = []
    sequences, filled = len(probe.sequences), len({s.block % request.blocks for s in probe.sequences})
    if filled < BLOCKS // 2:
        flags.append(f"{filled} of {request.blocks} blocks have sequences: no intervals")
    elif sequences < FEW_SEQUENCES:
        flags.append(f"{sequences} sequences: intervals are rough below {FEW_SEQUENCES}")
    flags += _too_few_rows(observation, width)
    if massive := [
        c.site for c in cells if c.metric.name == "massive_tokens" and c.site != BAND and c.estimate.value > 0
    ]:
        flags.append(f"massive tokens at {', '.join(massive)}: read `raw` beside `trimmed`, and prefer `rms`")
    if overflow := observation.tokens.overflow:
        flags.append(f"more massive tokens than are kept at {', '.join(overflow)}: `trimmed` holds some of them")
    return flags


def _too_few_rows(observation: Observation, width: int) -> list[str]:
    """Which plug-in levels are biased by more than 1 %, and how many rows they would need."""
    flags = []
    needed = {
        name: round(metric.rows_per_dimension * width)
        for name, metric in CATALOG.items()
        if metric in observation.request.metrics and metric.rows_per_dimension is not None
    }
    for convention in observation.request.conventions:
        rows = len(observation.probe.sequences) if convention == LAST else observation.probe.n_tokens
        short = {name: n for name, n in needed.items() if rows < n and convention in CATALOG[name].conventions}
        if short:
            few = ", ".join(f"{name} needs {n:,}" for name, n in list(short.items())[:NAMED])
            more = f" and {len(short) - NAMED} more metrics" if len(short) > NAMED else ""
            flags.append(
                f"{convention}: {rows:,} rows in {width} dimensions bias plug-in levels over 1 % ({few}{more}); "
                "read the corrected ones"
            )
    return flags
