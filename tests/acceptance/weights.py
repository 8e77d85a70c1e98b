"""Updates: exact algebra, chance, and what 16-bit differences do."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch

from limberlm.geometry import Undefined, effective_rank
from limberlm.geometry.angles import principal_angles
from limberlm.geometry.low_rank import Factored, singular_bases
from limberlm.geometry.update_null import null_cosine, null_overlap
from limberlm.geometry.updates import subspace_overlap, update_cosine
from limberlm.geometry.weights import DriftSums, output_drift, refuse_rounded
from tests.acceptance.table import Got, Row, both, near, tiny
from tests.geometry.clouds import normal, power_law
from tests.geometry.test_angles import at_angles
from tests.geometry.test_low_rank import dense, factored
from tests.geometry.test_updates import flat, frame
from tests.geometry.test_weights import ROWS as ROUNDED
from tests.geometry.test_weights import lora


def algebra() -> Got:
    one, other = factored(512, 384, 16), factored(512, 384, 16, seed=3)
    exact = torch.linalg.svdvals(dense(one))[:16]
    spectrum = float((one.bases().values - exact).abs().max() / exact[0])
    inner = float(abs(one.inner(other) - (dense(one) * dense(other)).sum()) / (one.norm() * other.norm()))
    mixing = normal(16, 16, seed=9)
    turned = Factored(one.left @ torch.linalg.inv(mixing), mixing @ one.right, one.scale)
    gauge = float((turned.bases().values - exact).abs().max() / exact[0])
    explicit = torch.linalg.svdvals(dense(other) - dense(one))[:32]
    step = float(((other - one).bases().values - explicit).abs().max() / explicit[0])
    return both(
        tiny(spectrum, 1e-12, "spectrum"),
        tiny(inner, 1e-12, "inner product"),
        tiny(gauge, 1e-10, "gauge"),
        tiny(step, 1e-12, "`continue`"),
    )


def chance() -> Got:
    overlaps = [null_overlap(16, 16, dim).value for dim in (256, 1024, 4096)]
    axes, spread = torch.eye(256, 16, dtype=torch.float64), null_overlap(16, 16, 256).std_dev
    drawn = [subspace_overlap(axes, frame(256, 16, seed)).item() for seed in range(400)]
    steep, ones = power_law(8, 2.0), torch.ones(5).double()
    pairs = [(flat(128, 96, steep, s), flat(128, 96, ones, s + 5000)) for s in range(400)]
    cosines = [update_cosine(*pair).item() for pair in pairs]
    return both(
        near(overlaps, [0.0625, 0.0156, 0.0039], 5e-5, 4),
        Got(
            f"sd {16 * spread:.4f}/16, drawn {16 * np.std(drawn):.4f}/16", bool(abs(np.std(drawn) / spread - 1) < 0.15)
        ),
        near([null_cosine(128, 96).std_dev], [0.0090], 5e-5, 4),
        Got(f"drawn {np.std(cosines):.4f}", bool(abs(np.std(cosines) / 0.0090 - 1) < 0.15)),
    )


def rounded() -> Got:
    """Table 9.1."""
    parts = []
    for (relative, sixteen), expected in ROUNDED.items():
        base = (normal(512, 512, seed=0) / sqrt(512)).float()
        base = base.bfloat16().float() if sixteen else base
        truth = lora(512, 512, 16, seed=2).dense()
        truth *= relative * base.norm() / truth.norm()
        before, after = base.bfloat16(), (base.double() + truth).bfloat16()
        difference = singular_bases(after.double() - before.double())
        rank = effective_rank(difference.values.square()).item()
        cosine = update_cosine(difference, singular_bases(truth)).item()
        zeros = (after == before).double().mean().item()
        met = difference.rank == expected[0] and abs(rank / expected[1] - 1) <= 0.02
        met = met and abs(cosine - expected[2]) <= 0.01 and abs(zeros - expected[3]) <= 0.01
        words = f"{difference.rank}, {rank:.0f}, {cosine:.2f}, {100 * zeros:.0f} %, {_refused(before, after)}"
        parts.append(Got(words, met and words.endswith("refused")))
    return both(*parts)


def _refused(before: torch.Tensor, after: torch.Tensor) -> str:
    try:
        refuse_rounded(before, after)
    except Undefined:
        return "refused"
    return "taken"


def angles() -> Got:
    found = [principal_angles(*at_angles([angle, 0.5, 1.5], d=64))[0].item() for angle in (1e-3, 1e-4)]
    error = max(abs(a / b - 1) for a, b in zip(found, (1e-3, 1e-4), strict=True))
    plain = torch.tensor(1e-4, dtype=torch.float64).cos().float().acos().item()
    return both(
        tiny(error, 1e-6), Got(f"float32 arccos of 1e-4: {plain:.2e}", plain == 0 or abs(plain / 3.45e-4 - 1) < 0.01)
    )


def drift() -> Got:
    update, weight, inputs = lora(20, 30, 3, size=2.0), normal(20, 30, seed=1), normal(100, 30, seed=2) + 1
    sums = DriftSums.zeros(update)
    sums.update(inputs, inputs @ weight.T, update)
    expected = (inputs @ update.dense().T).norm() / (inputs @ weight.T).norm()
    return tiny(abs(output_drift(update, sums) / expected - 1).item(), 1e-12)


ROWS = (
    Row(
        "LoRA spectrum by QR; inner product; gauge (B M^-1)(M A); difference after `continue`",
        "1e-12 relative; same; invariant; the SVD of the explicit difference",
        (
            "geometry/test_low_rank.py::test_a_large_lora_spectrum_keeps_twelve_digits",
            "geometry/test_low_rank.py::test_spectrum_inner_product_and_norm_equal_those_of_the_dense_matrix",
            "geometry/test_low_rank.py::test_the_gauge_changes_nothing",
            "geometry/test_low_rank.py::test_a_continued_adapter_differs_by_the_explicit_difference",
        ),
        algebra,
    ),
    Row(
        "chance overlap r = 16, dim 256 / 1024 / 4096; its sd at 256; sd of the cosine at 128 x 96",
        "0.0625, 0.0156, 0.0039; 0.083/16; 0.0090",
        (
            "geometry/test_updates.py::test_chance_overlap_at_rank_16",
            "geometry/test_updates.py::test_the_deviation_of_a_chance_overlap",
            "geometry/test_updates.py::test_the_deviation_of_a_chance_cosine",
        ),
        chance,
    ),
    Row(
        "difference of bf16 weights, relative size 1e-3, 2e-4, then both with a bf16 base: rank, effective rank, "
        "cosine to the truth, exact zeros",
        "512, 214, 0.52, 69 %; 512, 280, 0.24, 90 %; 512, 144, 0.64, 78 %; 512, 245, 0.30, 95 %; all refused",
        ("geometry/test_weights.py::test_every_merge_subtract_of_the_table_reads_as_printed_and_is_refused",),
        rounded,
    ),
    Row(
        "angles of 1e-3 and 1e-4 rad by arcsin",
        "1e-6 relative; float32 arccos of the second reads 0 or 3.5e-4",
        (
            "geometry/test_angles.py::test_small_angles_are_exact_where_a_float32_arc_cosine_sees_steps",
            "geometry/test_angles.py::test_a_float32_arc_cosine_would_not_see_a_ten_thousandth",
        ),
        angles,
    ),
    Row(
        "output drift by r x r sums against the explicit outputs",
        "1e-12",
        ("geometry/test_weights.py::test_output_drift_by_small_sums_equals_the_explicit_routes",),
        drift,
    ),
)
