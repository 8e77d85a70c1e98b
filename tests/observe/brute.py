"""The whole geometry table again, by brute force in float64: every state stored, no sums, no code of the package.

Sequences are read one by one without padding; spectra come from numpy's SVD of the stacked centred states; cosines
from all pairs; the debiased ratio from all tuples of distinct blocks. Only null values are taken from the package,
which tests them against simulation elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import ceil

import numpy as np
import torch
from scipy.stats import t as student
from torch import nn

G = 16
LOG = {"effective_rank", "rankme", "participation_ratio", "participation_ratio_debiased", "stable_rank"}
CORRECTED = {
    "effective_rank",
    "rankme",
    "participation_ratio",
    "stable_rank",
    "variance_share_1",
    "variance_share_8",
    "variance_share_32",
}


def stored_states(
    model: nn.Module, parts: dict[str, nn.Module], sequences: Sequence
) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
    """Kept states [n, d] of each sequence by site, float64, and the block of each sequence; from hooks of our own."""
    states: dict[str, list[np.ndarray]] = {"embed": [], **{name: [] for name in parts}}
    caught: dict[str, torch.Tensor] = {}

    def entering(module, args, kwargs):
        caught["embed"] = args[0] if args else kwargs["hidden_states"]

    def leaving(name):
        def hook(module, args, output):
            caught[name] = output if torch.is_tensor(output) else output[0]

        return hook

    handles = [parts["block.0"].register_forward_pre_hook(entering, with_kwargs=True)]
    handles += [part.register_forward_hook(leaving(name)) for name, part in parts.items()]
    blocks = []
    for sequence in sequences:
        with torch.no_grad():
            model(torch.tensor([sequence.ids]))
        keep = np.array(sequence.keep)
        for name in states:
            states[name].append(caught[name][0].double().numpy()[keep])
        digest = blake2b(np.array(sequence.ids, dtype=np.int64).tobytes(), digest_size=16).digest()
        blocks.append(digest[-1] % G)
    for handle in handles:
        handle.remove()
    return states, np.array(blocks)


def reservoir_rows(sequences: Sequence, size: int = 2048) -> np.ndarray:
    """Indices among all kept tokens of those in the reservoir."""
    limit = max(2, ceil(size / len(sequences)))
    candidates, start = [], 0
    for sequence in sequences:
        key = blake2b(np.array(sequence.ids, dtype=np.int64).tobytes(), digest_size=16).digest()
        ranked = []
        positions = [i for i, keep in enumerate(sequence.keep) if keep]
        for row, position in enumerate(positions):
            rank = blake2b(position.to_bytes(4, "little"), key=key, digest_size=8).digest()
            ranked.append((rank, start + row))
        candidates += sorted(ranked)[:limit]
        start += len(positions)
    return np.array(sorted(row for _, row in sorted(candidates)[:size]))


def spectrum(rows: np.ndarray) -> np.ndarray:
    return np.linalg.svd(rows - rows.mean(0), full_matrices=False, compute_uv=False) ** 2 / (len(rows) - 1)


def _exp_entropy(weights: np.ndarray) -> float:
    p = weights / weights.sum()
    p = p[p > 1e-300]
    return float(np.exp(-(p * np.log(p)).sum()))


def _share(k: int) -> Callable[[np.ndarray], float]:
    return lambda values: float(np.sort(values)[::-1][:k].sum() / values.sum())


SPECTRAL: dict[str, Callable[[np.ndarray], float]] = {
    "effective_rank": _exp_entropy,
    "participation_ratio": lambda v: float(v.sum() ** 2 / (v**2).sum()),
    "rankme": lambda v: _exp_entropy(np.sqrt(np.where(v > 1e-14 * v.sum(), v, 0.0))),
    "stable_rank": lambda v: float(v.sum() / v.max()),
    "variance_share_1": _share(1),
    "variance_share_8": _share(8),
    "variance_share_32": _share(32),
}


def debiased_ratio(rows: np.ndarray, block: np.ndarray) -> float:
    """Sums over all ordered quadruples of distinct blocks of rows 1 to 4.

    Above |x1 - x2|^2 |x3 - x4|^2 / 4, below ((x1 - x2)'(x3 - x4))^2 / 4, both multiplied out.
    """
    rows = rows - rows.mean(0)
    parts = [rows[block == b] for b in np.unique(block)]
    n = np.array([len(part) for part in parts], float)
    s = np.array([part.sum(0) for part in parts])
    M = np.array([part.T @ part for part in parts])
    T = np.trace(M, axis1=1, axis2=2)
    g = s @ s.T
    off = (~np.eye(len(parts), dtype=bool)).astype(float)
    four = np.einsum("ab,ac,ad,bc,bd,cd->abcd", off, off, off, off, off, off)
    twice = np.einsum("abcd,ab,cd->", four, g, g, optimize=True)
    above = np.einsum("abcd,a,b,c,d->", four, T, T, n, n, optimize=True)
    above += twice - 2 * np.einsum("abcd,a,bc,d->", four, T, g, n, optimize=True)
    below = np.einsum("abcd,ab,c,d->", four, np.einsum("aij,bij->ab", M, M, optimize=True), n, n, optimize=True)
    below += twice - 2 * np.einsum(
        "abcd,abc,d->", four, np.einsum("ai,bij,cj->abc", s, M, s, optimize=True), n, optimize=True
    )
    return float(above / below)


def pair_cosine(rows: np.ndarray, block: np.ndarray) -> float:
    """Mean over all pairs of rows from different blocks, each pair looked at."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    total, pairs = 0.0, 0
    for b in np.unique(block):
        cosines = unit[block == b] @ unit[block != b].T
        total += cosines.sum()
        pairs += cosines.size
    return total / pairs


def massive(norms: np.ndarray) -> float:
    middle = np.sort(norms)[(len(norms) - 1) // 2]
    return float((norms > 20 * middle).mean())


def jackknifed(name: str, compute: Callable[[int], float], filled: Sequence[int]) -> dict[str, object]:
    """Value, interval and delete-one values; `compute(out)` leaves block `out` out, -1 none."""
    value = compute(-1)
    out = np.array([compute(b) if b in filled else np.nan for b in range(G)])
    return _interval(name, value, np.log(out) if name in LOG else out)


def _interval(name: str, value: float, out: np.ndarray) -> dict[str, object]:
    to, back = (np.log, np.exp) if name in LOG else (lambda x: x, lambda x: x)
    kept = out[~np.isnan(out)]
    g = len(kept)
    centre = g * to(value) - (g - 1) * kept.mean()
    error = np.sqrt((g - 1) / g * ((kept - kept.mean()) ** 2).sum())
    half = student.ppf(0.975, g - 1) * error
    return {
        "value": value,
        "corrected": back(centre),
        "std_error": error,
        "low": back(centre - half),
        "high": back(centre + half),
        "replicates": out,
    }


def brute_table(
    model: nn.Module, parts: dict[str, nn.Module], sequences: Sequence
) -> dict[tuple[str, str, str], dict[str, object]]:
    """(site, convention, metric) -> numbers, for every row of the table."""
    states, block_of_sequence = stored_states(model, parts, sequences)
    filled = sorted(set(block_of_sequence.tolist()))
    block = np.repeat(block_of_sequence, [sum(sequence.keep) for sequence in sequences])
    reservoir = reservoir_rows(sequences)
    table = {}
    for site, by_sequence in states.items():
        raw = np.concatenate(by_sequence)
        clouds = {"rms": (raw / np.sqrt((raw**2).mean(1, keepdims=True)), block), "raw": (raw, block)}
        if site == "final_norm":
            clouds["last"] = (np.array([rows[-1] for rows in by_sequence]), block_of_sequence)
        for convention, (rows, where) in clouds.items():
            spectra = {out: spectrum(rows[where != out]) for out in (-1, *filled)}
            computes = {
                name: (lambda out, f=f, spectra=spectra: f(spectra[out]))
                for name, f in SPECTRAL.items()
                if int(name.rpartition("_")[2] if name[-1].isdigit() else 0) < rows.shape[1]
            }
            computes["participation_ratio_debiased"] = lambda out, rows=rows, where=where: debiased_ratio(
                rows[where != out], where[where != out]
            )
            if convention == "raw":
                computes["anisotropy"] = lambda out, rows=raw: pair_cosine(rows[block != out], block[block != out])
                computes["anisotropy_centred"] = lambda out, rows=raw: _centred_cosine(rows, block, reservoir, out)
                computes["massive_tokens"] = lambda out, rows=raw: massive(np.linalg.norm(rows[block != out], axis=1))
            for name, compute in computes.items():
                found = jackknifed(name, compute, filled)
                table[site, convention, name] = {**found, "n": len(rows)}
    _add_band(table, len(parts) - 1)
    return table


def _centred_cosine(rows: np.ndarray, block: np.ndarray, reservoir: np.ndarray, out: int) -> float:
    mean = rows[block != out].mean(0)
    kept = reservoir[block[reservoir] != out]
    return pair_cosine(rows[kept] - mean, block[kept])


def _add_band(table: dict, layers: int) -> None:
    members = [f"block.{i}" for i in range(layers) if 0.5 <= (i + 1) / layers <= 0.85]
    for convention, name in [(c, m) for site, c, m in list(table) if site == "block.0"]:
        cells = [table[site, convention, name] for site in members]
        to, back = (np.log, np.exp) if name in LOG else (lambda x: x, lambda x: x)
        value = back(np.mean([to(cell["value"]) for cell in cells]))
        out = np.mean([cell["replicates"] for cell in cells], axis=0)
        table["band", convention, name] = {**_interval(name, value, out), "n": cells[0]["n"]}
