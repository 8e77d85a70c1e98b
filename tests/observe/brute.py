"""The whole geometry table again, by brute force in float64: every state stored, no sums, no code of the package.

Sequences are read one by one without padding, by hooks of our own; each number is one formula of `brute_values` on
the rows that are left without one block. Only null values are taken from the package, which tests them against
simulation elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from math import ceil

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from torch import nn

from limberlm.observe import ProbeSet
from tests.observe import brute_values as v
from tests.observe.brute_values import ABOUT_THE_VALUE, LOG, WINDOW, WITHOUT_INTERVAL, G

OF_WINDOWS = {
    *("curvature", "straightness", "velocity", "trajectory_homogeneity", "trajectory_cka"),
    *("diff_erank", "matrix_entropy", "trajectory_rank", "trajectory_rank_pooled"),
}
OF_PREDICTIONS = {"entropy", "entropy_median", "margin", "kl_to_base", *(f"top_mass_{k}" for k in (1, 5, 20))}
Compute = Callable[[int], float]
Cells = Iterator[tuple[str, str, Compute, int, int]]
"""(convention, metric, its value without a block, n_tokens, n_sequences)."""


@dataclass(frozen=True)
class Stored:
    """All that a model made of a probe.

    Attributes: `states` [n, d] of the kept tokens by site, in reading order; `units` [n, m] by block; the model's own
    `logits` [n, V]; `sequence` [n]; `predicts` [n], whether the next token is kept too; `block` and `domain` [s] of
    the sequences; `reservoir`, indices of its tokens.
    """

    states: dict[str, np.ndarray]
    units: dict[str, np.ndarray]
    logits: np.ndarray
    sequence: np.ndarray
    predicts: np.ndarray
    block: np.ndarray
    domain: np.ndarray
    reservoir: np.ndarray

    @property
    def of_token(self) -> np.ndarray:
        """The block [n] of each token."""
        return self.block[self.sequence]

    @property
    def ends(self) -> np.ndarray:
        """The last kept token of each sequence."""
        return np.append(np.flatnonzero(np.diff(self.sequence)), len(self.sequence) - 1)

    @cached_property
    def long(self) -> list[int]:
        """The sequences with a full window."""
        return np.flatnonzero(np.bincount(self.sequence, minlength=len(self.block)) >= WINDOW).tolist()

    def windows(self, rows: np.ndarray) -> np.ndarray:
        return np.array([rows[self.sequence == i][:WINDOW] for i in self.long])

    def pooled(self, rows: np.ndarray) -> np.ndarray:
        return np.array([rows[self.sequence == i].mean(0) for i in range(len(self.block))])


def rms(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).mean(1, keepdims=True))


def stored(model: nn.Module, probe: ProbeSet) -> Stored:
    """What a Llama makes of a probe."""
    layers, sequences = model.model.layers, probe.sequences
    parts = {**{f"block.{i}": layer for i, layer in enumerate(layers)}, "final_norm": model.model.norm}
    sites = ["embed", *parts]
    caught: dict[str, torch.Tensor] = {}

    def entering(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs: caught.update({name: args[0] if args else kwargs["hidden_states"]})

    def leaving(name: str) -> Callable[..., None]:
        return lambda module, args, output: caught.update({name: output if torch.is_tensor(output) else output[0]})

    handles = [layers[0].register_forward_pre_hook(entering("embed"), with_kwargs=True)]
    handles += [part.register_forward_hook(leaving(name)) for name, part in parts.items()]
    handles += [
        layer.mlp.down_proj.register_forward_pre_hook(entering(f"units {i}"), with_kwargs=True)
        for i, layer in enumerate(layers)
    ]
    kept: dict[str, list[np.ndarray]] = {}
    for sequence in sequences:
        with torch.no_grad():
            caught["logits"] = model(torch.tensor([sequence.ids])).logits
        for name, tensor in caught.items():
            kept.setdefault(name, []).append(tensor[0].double().numpy()[np.array(sequence.keep)])
    for handle in handles:
        handle.remove()
    rows = {name: np.concatenate(parts) for name, parts in kept.items()}
    following = [(*sequence.keep[1:], False) for sequence in sequences]
    return Stored(
        states={site: rows[site] for site in sites},
        units={f"block.{i}": rows[f"units {i}"] for i in range(len(layers))},
        logits=rows["logits"],
        sequence=np.repeat(np.arange(len(sequences)), [sum(s.keep) for s in sequences]),
        predicts=np.concatenate([np.array(f)[list(s.keep)] for f, s in zip(following, sequences, strict=True)]),
        block=np.array([_hash(sequence)[-1] % G for sequence in sequences]),
        domain=np.unique([sequence.domain for sequence in sequences], return_inverse=True)[1],
        reservoir=reservoir_rows(sequences),
    )


def _hash(sequence) -> bytes:
    return blake2b(np.array(sequence.ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def reservoir_rows(sequences: Sequence, size: int = 2048) -> np.ndarray:
    """Indices among all kept tokens of those in the reservoir."""
    limit = max(2, ceil(size / len(sequences)))
    candidates, start = [], 0
    for sequence in sequences:
        key = _hash(sequence)
        ranked = []
        positions = [i for i, keep in enumerate(sequence.keep) if keep]
        for row, position in enumerate(positions):
            rank = blake2b(position.to_bytes(4, "little"), key=key, digest_size=8).digest()
            ranked.append((rank, start + row))
        candidates += sorted(ranked)[:limit]
        start += len(positions)
    return np.array(sorted(row for _, row in sorted(candidates)[:size]))


def brute_table(
    seen: Stored,
    base: Stored | None = None,
    *,
    full: bool = False,
    wanted: Callable[[str, str, str], bool] = lambda site, convention, name: True,
) -> dict[tuple[str, str, str], dict[str, object]]:
    """(site, convention, metric) -> numbers, for the `wanted` rows of the table of the core or the full suite."""
    table: dict[tuple[str, str, str], dict[str, object]] = {}
    depth = len(seen.units)
    for site in [*seen.states, "logits"]:
        for convention, name, compute, tokens, sequences in _cells(seen, base, site, full):
            filled = _blocks(seen, name)
            found = jackknifed(name, compute, filled) if wanted(site, convention, name) else {"value": np.nan}
            if not np.isnan(found["value"]):
                table[site, convention, name] = {**found, "n": tokens, "s": sequences}
    members = band(depth)
    for convention, name in dict.fromkeys((c, m) for site, c, m in table if site in members):
        if all((site, convention, name) in table for site in members):
            table["band", convention, name] = _band([table[s, convention, name] for s in members], name)
    return table


def band(layers: int) -> list[str]:
    """The blocks of the depth band."""
    inside = [f"block.{i}" for i in range(layers) if 0.5 <= (i + 1) / layers <= 0.85]
    return inside or [min((abs((i + 1) / layers - 0.675), f"block.{i}") for i in range(layers))[1]]


def _blocks(seen: Stored, name: str) -> list[int]:
    """The blocks with anything that enters a metric."""
    if name in OF_WINDOWS:
        return sorted(set(seen.block[seen.long].tolist()))
    if name in OF_PREDICTIONS:
        return sorted(set(seen.of_token[seen.predicts].tolist()))
    return sorted(set(seen.block.tolist()))


def _cells(seen: Stored, base: Stored | None, site: str, full: bool) -> Cells:
    if site == "logits":
        yield from _logits(seen, base)
        return
    raw = seen.states[site]
    token, count, sequences = seen.of_token, len(raw), len(seen.block)
    for convention, rows in (("rms", rms(raw)), ("raw", raw)):
        yield from _moments(convention, rows, token, count, sequences, full)
        yield from _windows(seen, convention, rows, full)
    if site == "final_norm":
        yield from _moments("last", raw[seen.ends], seen.block, sequences, sequences, full)
    for cells in (_trimmed(seen, site, full), _directions(seen, site, full), _domains(seen, base, site, full)):
        yield from cells
    if site.startswith("block."):
        yield from _depth(seen, site)
        yield from _units(seen, site) if full else ()
    if base is not None:
        yield from _beside(seen, base, site, full)


def _moments(convention: str, rows: np.ndarray, block: np.ndarray, n: int, s: int, full: bool) -> Cells:
    spectra: dict[int, np.ndarray] = {}

    def of_spectrum(f: Callable[[np.ndarray], float]) -> Compute:
        return lambda out: f(
            spectra[out] if out in spectra else spectra.setdefault(out, v.spectrum(rows[block != out]))
        )

    def of_rows(f: Callable[[np.ndarray], float]) -> Compute:
        return lambda out: f(rows[block != out])

    for name, f in (v.SPECTRAL | (v.FULL_SPECTRAL if full else {})).items():
        yield convention, name, of_spectrum(f), n, s
    yield convention, "mean_share", of_rows(v.mean_share), n, s
    yield convention, "top_dimension_share", of_rows(v.top_dimension_share), n, s
    if full and convention in ("raw", "trimmed"):
        yield convention, "feature_rank", of_rows(v.feature_rank), n, s
    tuples = v.Tuples.of(rows, rows, block)
    yield convention, "participation_ratio_debiased", lambda out: tuples.without(out).ratio(), n, s


def _trimmed(seen: Stored, site: str, full: bool) -> Cells:
    norms = np.linalg.norm(seen.states[site], axis=1)
    stay = norms <= 20 * np.sort(norms)[(len(norms) - 1) // 2]
    if not stay.all():
        rows, block = seen.states[site][stay], seen.of_token[stay]
        yield from _moments("trimmed", rows, block, len(rows), len(seen.block), full)


def _directions(seen: Stored, site: str, full: bool) -> Cells:
    raw, block, counts = seen.states[site], seen.of_token, (len(seen.sequence), len(seen.block))
    chosen = seen.reservoir
    norms = np.linalg.norm(raw, axis=1)
    cosines = v.cosine_sums(raw, block)

    def centred(out: int) -> float:
        kept = chosen[block[chosen] != out]
        return v.pair_mean(v.cosine_sums(raw[kept] - raw[block != out].mean(0), block[kept]), out, inside=False)

    yield "raw", "anisotropy", lambda out: v.pair_mean(cosines, out, inside=False), *counts
    yield "raw", "anisotropy_centred", centred, *counts
    yield "raw", "massive_tokens", lambda out: v.massive(norms[block != out]), *counts
    if full:
        unit = v.units_of(raw[chosen])
        near = v.kernel_sums(
            lambda part: np.exp(-2 * cdist(unit[part], unit, "sqeuclidean")), block[chosen], seen.sequence[chosen]
        )
        far, stay = v.distances_between(rms(raw[chosen]))
        left = block[chosen][stay]

        everyone = v.nearest(far) if len(far) else far

        @cache
        def nearest(out: int) -> np.ndarray:
            """Without a block: the rows left, three times among all neighbours and twice among those left."""
            if out < 0:
                return everyone
            among = v.nearest(far[np.ix_(left != out, left != out)])
            return np.concatenate([everyone[left != out, : among.shape[1]]] * 3 + [among] * 2)

        yield "rms", "uniformity", lambda out: np.log(v.pair_mean(near, out, inside=True)), *counts
        yield "rms", "twonn", lambda out: v.twonn(nearest(out)), *counts
        yield "rms", "mle_dimension", lambda out: v.mle_dimension(nearest(out)), *counts


def _domains(seen: Stored, base: Stored | None, site: str, full: bool) -> Cells:
    counts = len(seen.sequence), len(seen.block)
    block, domain = seen.of_token, seen.domain[seen.sequence]
    for convention, rows in (("rms", rms(seen.states[site])), ("raw", seen.states[site])):
        yield (
            convention,
            "domain_separability",
            lambda out, rows=rows: v.separability(rows[block != out], domain[block != out]),
            *counts,
        )
    pooled = seen.pooled(rms(seen.states[site]))
    centres: dict[str, Compute] = {
        "rms": lambda out: pooled[seen.block != out].mean(0),
        "rms_uncentred": lambda out: np.zeros(pooled.shape[1]),
    }
    if base is not None:
        theirs = base.pooled(rms(base.states[site]))
        centres["rms_reference"] = lambda out: theirs[seen.block != out].mean(0)

    def likeness(centre: Compute, same: bool) -> Compute:
        return lambda out: v.homogeneity(
            pooled[seen.block != out], seen.domain[seen.block != out], centre(out), same=same
        )

    for convention, centre in centres.items():
        yield convention, "homogeneity_between", likeness(centre, same=False), *counts
        yield convention, "homogeneity_within", likeness(centre, same=True), *counts
    if full:
        correct = v.probe_correct(pooled, seen.domain)
        yield "rms", "domain_probe_accuracy", lambda out: correct[seen.block != out].mean(), *counts


def _windows(seen: Stored, convention: str, rows: np.ndarray, full: bool) -> Cells:
    if not seen.long:
        return
    windows, block = seen.windows(rows), seen.block[seen.long]
    counts = len(rows), len(windows)

    def mean(f: Callable[[np.ndarray], float], back: Callable[[float], float] = float) -> Compute:
        values = np.array([f(window) for window in windows])
        return lambda out: back(values[block != out].mean())

    steps = np.array([v.mean_unit_step(window) for window in windows])
    alike = v.cosine_sums(steps, block)
    for f in (v.curvature, v.straightness, v.velocity):
        yield convention, f.__name__, mean(f), *counts
    yield convention, "trajectory_homogeneity", lambda out: v.pair_mean(alike, out, inside=False), *counts
    if full:
        parts = np.array([v.rank_parts(window) for window in windows])
        likeness = v.window_cka(windows)
        pairs = v.kernel_sums(lambda part: likeness[part], block, np.arange(len(block)))
        yield convention, "diff_erank", mean(v.diff_erank_entropy, np.exp), *counts
        yield convention, "matrix_entropy", mean(v.matrix_entropy), *counts
        yield convention, "trajectory_rank", lambda out: np.divide(*parts[block != out].T).mean(), *counts
        yield convention, "trajectory_rank_pooled", lambda out: np.divide(*parts[block != out].sum(0)), *counts
        yield convention, "trajectory_cka", lambda out: v.pair_mean(pairs, out, inside=True), *counts


def _depth(seen: Stored, site: str) -> Cells:
    number = int(site.removeprefix("block."))
    way = [seen.states["embed"], *(seen.states[f"block.{i}"] for i in range(number + 1))]
    updates = np.diff(way, axis=0)
    lengths = np.linalg.norm(updates, axis=2)
    found = {
        "layer_velocity": lengths[-1] / np.linalg.norm(way[-2], axis=1),
        "depth_path": lengths.sum(0) / np.linalg.norm(way[-1] - way[0], axis=1),
    }
    if number:
        found["layer_alignment"] = v.cosines(updates[-2], updates[-1])
    for name, values in found.items():
        yield "raw", name, lambda out, values=values: values[seen.of_token != out].mean(), len(values), len(seen.block)


def _units(seen: Stored, site: str) -> Cells:
    activations, counts = seen.units[site], (len(seen.sequence), len(seen.block))
    sample = seen.reservoir[:: ceil(len(seen.reservoir) / 512)]
    for tau in (0.01, 0.025, 0.1):
        yield "raw", f"dormant_units_{tau}", lambda out, tau=tau: v.dormant(activations, tau), *counts
    yield "raw", "duplicated_units", lambda out: v.duplicated(activations[sample]), *counts


def _beside(seen: Stored, base: Stored, site: str, full: bool) -> Cells:
    counts, block = (len(seen.sequence), len(seen.block)), seen.of_token
    for convention, of in (("rms", rms), ("raw", np.asarray)):
        pair = of(seen.states[site]), of(base.states[site])
        tuples = [v.Tuples.of(x, y, block) for x, y in (pair, pair[:1] * 2, pair[1:] * 2)]
        yield convention, "cka", lambda out, t=tuples: v.cka(*(sums.without(out) for sums in t)), *counts
        bases: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def spanned(out: int, bases: dict = bases, pair: tuple = pair) -> tuple[np.ndarray, np.ndarray]:
            return bases.setdefault(out, bases.get(out) or tuple(v.leading(rows[block != out]) for rows in pair))

        yield convention, "subspace_overlap_32", lambda out, s=spanned: v.overlap(*s(out)), *counts
        if full:
            plain = _left(lambda out, x, y: v.cka_plain(x - x.mean(0), y - y.mean(0)), pair, block)
            yield convention, "cka_biased", plain, *counts
            yield convention, "principal_angle_max_32", lambda out, s=spanned: v.angles(*s(out)).max(), *counts
            yield convention, "principal_angle_mean_32", lambda out, s=spanned: v.angles(*s(out)).mean(), *counts
    chosen = seen.reservoir
    chosen = chosen[np.arange(512) * len(chosen) // 512] if len(chosen) > 512 else chosen

    def stability(out: int) -> float:
        kept = chosen[block[chosen] != out]
        return v.distance_stability(seen.states[site][kept], base.states[site][kept], seen.sequence[kept])

    yield "raw", "distance_stability", stability, *counts


def _left(f: Callable[..., float], pair: tuple[np.ndarray, np.ndarray], block: np.ndarray) -> Compute:
    return lambda out: f(out, *(rows[block != out] for rows in pair))


def _logits(seen: Stored, base: Stored | None) -> Cells:
    block, logits = seen.of_token[seen.predicts], seen.logits[seen.predicts]
    found = v.token_values(logits)
    if base is not None:
        found["kl_to_base"] = v.divergence(base.logits[seen.predicts], logits)
    for name, values in found.items():
        yield "raw", name, lambda out, values=values: values[block != out].mean(), len(values), len(seen.block)
    middle = lambda out: float(np.median(found["entropy"][block != out]))  # noqa: E731
    yield "raw", "entropy_median", middle, len(block), len(seen.block)
    centred = seen.logits - seen.logits.mean(1, keepdims=True)
    wanted = {"effective_rank", "participation_ratio", "participation_ratio_debiased"}
    for _, name, compute, n, s in _moments("raw", centred, seen.of_token, *centred.shape[:1], len(seen.block), False):
        if name in wanted:
            yield "raw", f"logit_{name}", compute, n, s


def jackknifed(name: str, compute: Compute, filled: Sequence[int]) -> dict[str, object]:
    """Value, interval and delete-one values; `compute(out)` leaves block `out` out, -1 none."""
    value = float(compute(-1))
    left = [b for b in filled if name not in WITHOUT_INTERVAL and not np.isnan(value)]
    out = np.array([compute(b) if b in left else np.nan for b in range(G)])
    if np.isnan(out[left]).any():
        out[:] = np.nan
    return _interval(name, value, np.log(out) if name in LOG else out)


def _interval(name: str, value: float, out: np.ndarray) -> dict[str, object]:
    to, back = (np.log, np.exp) if name in LOG else (float, float)
    kept = out[~np.isnan(out)]
    g = len(kept)
    centre = error = half = np.nan
    if g > 1:
        centre = to(value) if name in ABOUT_THE_VALUE else g * to(value) - (g - 1) * kept.mean()
    if g >= 8:
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


def _band(cells: list[dict[str, object]], name: str) -> dict[str, object]:
    to, back = (np.log, np.exp) if name in LOG else (float, float)
    value = float(back(np.mean([to(cell["value"]) for cell in cells])))
    out = np.mean([cell["replicates"] for cell in cells], axis=0)
    return {**_interval(name, value, out), "n": min(c["n"] for c in cells), "s": min(c["s"] for c in cells)}
