"""Removing or keeping a subspace of the states: as a hook at any site, or folded into a copy of the head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.geometry.spectrum import eigensystem
from limberlm.observe.model.head import Head
from limberlm.observe.model.sites import Sites, locate
from limberlm.observe.model.state import untouched
from limberlm.observe.names import FINAL_NORM
from limberlm.observe.probe.batches import batches
from limberlm.observe.probe.probe_set import BLOCKS, ProbeSet


@dataclass(frozen=True)
class Projection:
    """h' = mean + P (h - mean) for every state h; with `drop_mean`, P (h - mean).

    Attributes:
        basis: orthonormal columns [d, k] of U, float64; k may be 0.
        mean: of the states [d], float64.
        keep: P = U U', else I - U U'.
        drop_mean: leave the mean out.

    >>> remove = Projection(torch.tensor([[1.0], [0.0]]).double(), torch.tensor([5.0, 7.0]).double(), keep=False)
    >>> remove(torch.tensor([[9.0, 9.0]])).tolist()
    [[5.0, 9.0]]
    """

    basis: Tensor
    mean: Tensor
    keep: bool
    drop_mean: bool = False

    def __call__(self, states: Tensor) -> Tensor:
        """States [..., d] projected, in their own type; computed in float32, or float64 if they are."""
        working = states if states.dtype == torch.float64 else states.float()
        centred = working - self.mean.to(working)
        projected = self._project(centred)
        return (projected if self.drop_mean else projected + self.mean.to(working)).to(states.dtype)

    @torch.no_grad()
    def folded(self, head: Head) -> Head:
        """A head of its own, in float32, that gives for h what `head` gives for h': W P, with bias W (mean' - P mean).

        mean' is the mean, or 0 if it is dropped. Scale and softcap stay; the model's weights, which may be those of its
        embedding too, are neither changed nor shared.
        """
        weight = head.weight  # [V, d]
        mean = self.mean.to(weight)
        offset = (0 if self.drop_mean else mean) - self._project(mean)
        added = head.linear(torch.zeros(1, head.width).to(weight))[0].float()
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, head.width, len(weight), device=str(weight.device))
        layer.weight = nn.Parameter(self._project(weight), requires_grad=False)
        layer.bias = nn.Parameter(added + weight @ offset, requires_grad=False)
        return replace(head, unembedding=layer, projection=None, tied=False)

    def _project(self, rows: Tensor) -> Tensor:
        basis = self.basis.to(rows)
        inside = (rows @ basis) @ basis.T
        return inside if self.keep else rows - inside


@dataclass(frozen=True)
class Principal:
    """The principal directions of the states at a site: convention `last`, one row per probe sequence.

    Attributes: `values` [d] falling, and orthonormal `vectors` [d, d] of the centred covariance; `mean` [d]; all
    float64 on the host; `rows`, how many states they come from.
    """

    values: Tensor
    vectors: Tensor
    mean: Tensor
    rows: int

    @property
    def width(self) -> int:
        """The number of dimensions d."""
        return len(self.values)

    def top(self, k: int) -> Tensor:
        """The k directions of largest variance [d, k].

        Raises:
            UserError: the states do not have that many directions.

        """
        if not 0 <= k <= self.width:
            raise UserError(f"k={k}: the states have {self.width} dimensions; give 0 to {self.width}")
        if self.rows - 1 < k < self.width:
            raise UserError(f"k={k}: {self.rows} texts have {self.rows - 1} principal directions; use a larger probe")
        return self.vectors[:, :k]

    def share(self, basis: Tensor) -> float:
        """Share of the variance within the subspace of `basis` [d, k], in [0, 1]."""
        inside = (self.vectors.T @ basis).square().sum(1)
        return float((self.values * inside).sum() / self.values.sum())

    def random(self, k: int, seed: int) -> Tensor:
        """Random directions [d, k], evenly over all subspaces (Haar); a larger k only adds to them."""
        return _haar(self.width, seed)[:, :k]

    def matched(self, share: float, seed: int) -> Tensor:
        """As many random directions as carry a share of the variance as near to `share` as can be.

        The top k carry more than any other k, so a random subspace of equal share has more dimensions (our choice).
        """
        basis = _haar(self.width, seed)
        inside = (self.vectors.T @ basis).square()
        carried = torch.cat([torch.zeros(1).double(), (self.values @ inside).cumsum(0) / self.values.sum()])
        return basis[:, : int((carried - share).abs().argmin())]


def principal(model: nn.Module, sites: Sites, probe: ProbeSet, site: str, batch_size: int = 16) -> Principal:
    """Eigenvectors of the centred covariance of the states at a site, last kept token of each sequence of the probe.

    At `final_norm` these are the states of the convention `last`.

    Raises:
        UserError: the probe does not fit the model, has fewer than two sequences, or the states are not finite.

    """
    probe.check_fits(int(sites.backbone.config.get_text_config().vocab_size))
    rows = []
    with untouched(model), sites.reading([site]) as states:
        for batch in batches(probe, batch_size, "right", sites.device, BLOCKS):
            sites.forward(**batch.inputs)
            last = batch.kept[(batch.lengths.cumsum(0) - 1).to(batch.kept.device)]
            rows.append(states[site].flatten(0, 1)[last].double().cpu())
    found = torch.cat(rows)
    name = type(model).__name__
    if len(found) < 2 or not bool(torch.isfinite(found).all()):
        problem = "not finite" if len(found) > 1 else "of one text, which has no variance"
        raise UserError(f"{name}: the states at {site} are {problem}; its principal directions do not exist")
    mean = found.mean(0)
    values, vectors = eigensystem((found - mean).T @ (found - mean) / (len(found) - 1))
    if not float(values[0]) > 0:
        raise UserError(f"{name}: the states at {site} are all equal; they have no principal directions")
    return Principal(values, vectors, mean, len(found))


@contextmanager
def projected(model: nn.Module, site: str, projection: Projection) -> Iterator[None]:
    """While open, the states that leave `block.i` or `final_norm` are projected, at every position.

    The hook is gone on leaving, also after an exception; no weight is touched.

    Raises:
        UserError: the model has no such site.

    """

    def change(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (projection(output[0]), *output[1:])
        return projection(output)

    handle = _part(locate(model), site).register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def check_site(sites: Sites, site: str) -> None:
    """Refuse a site whose states cannot be projected.

    Raises:
        UserError: it is neither `final_norm` nor a block of the model.

    """
    _part(sites, site)


def _part(sites: Sites, site: str) -> nn.Module:
    if site == FINAL_NORM:
        return sites.final_norm
    names = [name for name in sites.names() if name.startswith("block.")]
    if site not in names:
        raise UserError(f'site "{site}": choose {FINAL_NORM} or a block, {names[0]} to {names[-1]}')
    return sites.blocks[int(site.removeprefix("block."))]


def _haar(width: int, seed: int) -> Tensor:
    """A random rotation [d, d], float64: QR of normal draws, signs fixed so that it is even over all rotations."""
    normal = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(normal)
    rotation: Tensor = q * r.diagonal().sign()
    return rotation
