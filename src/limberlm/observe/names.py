"""The names of sites and of conventions, and which blocks the depth band is."""

from __future__ import annotations

EMBED, FINAL_NORM, LOGITS, BAND = "embed", "final_norm", "logits", "band"
"""Sites beside `block.i`: what enters block 0, what the head reads, what it says; and the mean over the depth band."""

RMS, RAW, LAST = "rms", "raw", "last"
"""Conventions: each token divided by its root mean square; as it is; the last token of each sequence alone."""

TRIMMED = "trimmed"
"""`raw` without the massive tokens; only where there are any."""

UNCENTRED, REFERENCE = f"{RMS}_uncentred", f"{RMS}_reference"
"""`rms` with pooled states centred by nothing, and by the mean of the reference checkpoint."""

BAND_LOW, BAND_HIGH, BAND_CENTRE = 0.50, 0.85, 0.675


def depth_of(site: str, blocks: int) -> float:
    """Depth in [0, 1]: `embed` 0, `block.i` (i+1)/L, `final_norm` and `logits` 1.

    >>> depth_of("embed", 4), depth_of("block.1", 4), depth_of("final_norm", 4)
    (0.0, 0.5, 1.0)
    """
    if site == EMBED:
        return 0.0
    return 1.0 if site in (FINAL_NORM, LOGITS) else (int(site.removeprefix("block.")) + 1) / blocks


def band_sites(blocks: int) -> list[str]:
    """Blocks of the depth band: 0.50 <= depth <= 0.85, else the one nearest 0.675 (our choice).

    >>> band_sites(6), band_sites(1)
    (['block.2', 'block.3', 'block.4'], ['block.0'])
    """
    depths = {f"block.{i}": (i + 1) / blocks for i in range(blocks)}
    inside = [name for name, depth in depths.items() if BAND_LOW <= depth <= BAND_HIGH]
    return inside or [min(depths, key=lambda name: abs(depths[name] - BAND_CENTRE))]
