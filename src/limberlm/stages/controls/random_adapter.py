"""Control: a random change of the same size as a trained one, for adapters and for whole models.

Every module's update keeps its singular values, and so its norm and its spectrum, and gets random directions. A metric
that cannot tell it from the trained one measures the size of the change and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from limberlm.errors import UserError
from limberlm.files import whole_folder
from limberlm.observe.model.weights import INDEX, SINGLE, Checkpoint, Stored
from limberlm.observe.updates.adapters import CONFIG, WEIGHTS, Adapter

_BESIDE = (".json", ".jinja", ".model", ".txt")  # configuration and tokenizer: never a pickle
_SIXTEEN_BIT = ("BF16", "F16")


def random_adapter(trained: Path, out: Path, *, seed: int, size: float = 1.0) -> None:
    """Write the norm-matched random adapter of a trained one.

    A module whose update is s B A = U diag(sigma) V' gets U and V drawn anew, independently and uniformly (Haar), and
    factors B = U (sigma/|s|)^(1/2), A = (sigma/|s|)^(1/2) V', zero beyond the update's rank, in float32: its singular
    values are those of the trained update to about 1e-7 of each. The scale s is the card's, for rsLoRA and patterns
    too. The card is copied, so the two load alike. The same bytes for the same seed; a module's draw depends on the
    seed and its name only. Our choice of control.

    Args:
        trained: the folder of a LoRA adapter.
        out: the folder to make; it is there whole or not at all.
        seed: of the directions.
        size: of the random update, as a multiple of the trained one's.

    Raises:
        UserError: `out` exists; or the adapter is damaged, is not LoRA, or changes the model by more than s B A.

    """
    _refuse_taken(out)
    adapter = Adapter.open(trained)
    _refuse_more_than_factors(adapter)
    tensors: dict[str, Tensor] = {}
    for module in sorted(adapter.lora):
        tensors |= _redrawn(adapter, module, generator_of(seed, module), size)
    with whole_folder(out) as folder:
        shutil.copyfile(trained / CONFIG, folder / CONFIG)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def random_update(
    previous: str | Path | Mapping[str, Tensor],
    model: Path,
    out: Path,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the norm-matched random counterpart of a stage that trained all weights: its start and a random change.

    Of a matrix the change W_t - W_{t-1} keeps its singular values and gets random singular vectors (Haar); of a stack
    of matrices each one does; of a vector the change keeps its norm and gets a random direction. What did not change
    stays as it is. The sum is written in float32, whose rounding, some 1e-7 of the weight's norm, is how exactly the
    singular values hold. The same bytes for the same seed. Our choice of control.

    Args:
        previous: the model folder or hub id that the stage started from, or its weights by name where the start was
            merged in memory.
        model: the model folder that the stage left, whose configuration and tokenizer are copied.
        out: the folder to make; it is there whole or not at all.
        seed: of the directions.
        progress: is told the tensors done and all of them; every matrix takes its singular values.

    Raises:
        UserError: `out` exists, a folder holds no model, the two do not fit each other, or the stage was saved in 16
            bits, where a small change is lost.

    """
    _refuse_taken(out)
    after = Checkpoint.open(model).tensors
    before = previous if isinstance(previous, Mapping) else Checkpoint.open(previous).tensors
    for name, stored in after.items():
        _refuse_misfit(name, stored, before)
    tensors: dict[str, Tensor] = {}
    with whole_folder(out) as folder:
        for done, (name, stored) in enumerate(sorted(after.items()), start=1):
            start = _read(before[name])
            change = _redirected(_read(stored) - start, generator_of(seed, name))
            tensors[name] = (start + change).to(torch.float32)
            progress(done, len(after))
        for file in model.iterdir():
            if file.suffix in _BESIDE and file.name != INDEX:
                shutil.copyfile(file, folder / file.name)
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def haar_frame(dim: int, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns [dim, columns] in float64, uniform over all such frames; `columns` at most `dim`.

    Q of the QR decomposition of a Gaussian matrix, its columns turned so that R's diagonal is positive. Without that
    the signs are LAPACK's, which makes the first entry of Q negative in every draw. Source: Mezzadri math-ph/0609050.

    >>> frame = haar_frame(5, 2, torch.Generator().manual_seed(0))
    >>> torch.allclose(frame.T @ frame, torch.eye(2, dtype=torch.float64))
    True
    """
    q, r = torch.linalg.qr(torch.randn(dim, columns, generator=generator, dtype=torch.float64))
    frame: Tensor = q * r.diagonal().sign()
    return frame


def generator_of(seed: int, name: str) -> torch.Generator:
    """A random generator for one tensor of a seed, which does not depend on what else is drawn."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)  # torch takes 63 bits on every platform


def _refuse_taken(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another folder")


def _redrawn(adapter: Adapter, module: str, generator: torch.Generator, size: float) -> dict[str, Tensor]:
    """The module's factors [d_out, r] and [r, d_in] by their stored names, with random directions."""
    (d_out, d_in), stored = adapter.shape(module), adapter.lora[module]
    values = adapter.read(module).update.bases().values
    root = (size * values / abs(adapter.scale(module))).sqrt()
    rank, kept = stored["A"].shape[0], len(values)
    b, a = torch.zeros(d_out, rank), torch.zeros(rank, d_in)
    b[:, :kept] = haar_frame(d_out, kept, generator) * root
    a[:kept] = (haar_frame(d_in, kept, generator) * root).T
    return {stored["A"].name: a, stored["B"].name: b}


def _redirected(change: Tensor, generator: torch.Generator) -> Tensor:
    """A random change of the same shape and, matrix by matrix, the same singular values."""
    if not bool(change.any()):
        return change
    if change.ndim > 2:
        return torch.stack([_redirected(part, generator) for part in change])
    redirected: Tensor
    if change.ndim < 2:
        redirected = change.norm() * haar_frame(change.numel(), 1, generator).reshape(change.shape)
    else:
        values = torch.linalg.svdvals(change)
        left, right = (haar_frame(dim, len(values), generator) for dim in change.shape)
        redirected = left * values @ right.T
    return redirected


def _read(weight: Stored | Tensor) -> Tensor:
    return (weight.read() if isinstance(weight, Stored) else weight.detach().cpu()).to(torch.float64)


def _refuse_misfit(name: str, stored: Stored, before: Mapping[str, Stored] | Mapping[str, Tensor]) -> None:
    if name not in before:
        raise UserError(f"{stored.file}: {name} is no weight of the stage's start; give what the stage started from")
    shape = tuple(before[name].shape)
    if shape != stored.shape:
        raise UserError(
            f"{stored.file}: {name} is {list(stored.shape)}, and {list(shape)} at the stage's start; give what the "
            "stage started from"
        )
    if stored.dtype in _SIXTEEN_BIT:
        raise UserError(f"{stored.file}: {name} is stored as {stored.dtype}, which loses a small change; use float32")


def _refuse_more_than_factors(adapter: Adapter) -> None:
    """What is not s B A has no random counterpart of the same spectrum."""
    control = "the norm-matched random adapter is made of LoRA factors alone"
    if adapter.uses_dora:
        raise UserError(f"{adapter.path}: DoRA, and {control}; train with use_dora: false")
    if adapter.whole:
        raise UserError(f"{adapter.path}: {min(adapter.whole)} is saved whole, and {control}; drop modules_to_save")
    left_out = {name: why for name, why in adapter.left_out.items() if not name.endswith(".base_layer.weight")}
    if left_out:
        name, reason = min(left_out.items())
        raise UserError(f"{adapter.path}: {name} is {reason}, and {control}; train without it")
    if adapter.recorded and any(_starts_in_the_base(adapter, module) for module in adapter.lora):
        raise UserError(f"{adapter.path}: its start was taken out of the base's weights, and {control}; use plain LoRA")


def _starts_in_the_base(adapter: Adapter, module: str) -> bool:
    return adapter.read(module).update.inner_dimension != adapter.lora[module]["A"].shape[0]
