"""Independent packages on the same numbers."""

from __future__ import annotations

import warnings

import dimensionality
import skdim
import torch
import torch_cka
import torchmetrics
from IsoScore import IsoScore as package_of_isoscore  # noqa: N813 (a module)

from limberlm.geometry import BlockProducts, participation_ratio_debiased
from limberlm.geometry.dimension import mle_dimension, twonn
from limberlm.geometry.logits import kl_divergence
from limberlm.geometry.similarity import Distances, distance_stability
from limberlm.geometry.spectrum import isoscore
from tests.acceptance.spectra import of
from tests.acceptance.table import Got, Row, both, tiny
from tests.geometry.clouds import blocks, normal, power_law
from tests.geometry.test_dimension import flat
from tests.geometry.test_dimension import of as neighbours
from tests.geometry.test_similarity import Features, by_rows, cosine_distances, places, related


def gamma_row() -> Got:
    x = normal(40, 12, seed=6) * power_law(12, 0.7).sqrt() + 0.3
    theirs = dimensionality.participation_ratio(x.numpy(), return_all=True)["row"]
    return tiny(abs(participation_ratio_debiased(BlockProducts.of(blocks(x, 40))).item() / theirs - 1), 1e-12)


def nearest() -> Got:
    rows = flat(600, 5, seed=9)
    ours, array = neighbours(rows), rows.numpy()
    errors = [
        abs(twonn(ours).item() / skdim.id.TwoNN().fit_transform(array) - 1),
        abs(mle_dimension(ours).item() / skdim.id.MLE().fit(array).dimension_ - 1),
    ]
    return both(tiny(errors[0], 1e-9, "TwoNN"), tiny(errors[1], 1e-9, "MLE"))


def score() -> Got:
    rows = normal(400, 60, seed=1) * power_law(60, 0.7).sqrt() + 1
    return tiny(abs(isoscore(of(rows)).item() - package_of_isoscore.IsoScore(rows.numpy()).item()), 1e-6)


def alignment() -> Got:
    inputs = normal(96, 10, seed=9).float()
    models = [Features(normal(8, 10, seed=seed).float()) for seed in (10, 11)]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=96)
    layer = ["layers.feature"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = torch_cka.CKA(*models, "x", "y", model1_layers=layer, model2_layers=layer)
        theirs.compare(loader)
        ours = by_rows(*(model(inputs).double() for model in models))
    return tiny(abs(ours - theirs.export()["CKA"].item()), 1e-5)


def metrics() -> Got:
    x, y = related(40, seed=16)
    block, sequence = places(40)
    left, right = (torch.from_numpy(cosine_distances(rows, sequence)) for rows in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spearman = torchmetrics.SpearmanCorrCoef().set_dtype(torch.float64)
        spearman.update(left, right)
        rank = abs(distance_stability(Distances.of(x, y, block, sequence)).item() - spearman.compute().item())
    reference, logits = 2 * normal(9, 40, seed=8), 2 * normal(9, 40, seed=9)
    theirs = torchmetrics.functional.kl_divergence(
        reference.log_softmax(1), logits.log_softmax(1), log_prob=True, reduction="none"
    )
    divergence = float((kl_divergence(reference, logits) / theirs - 1).abs().max())
    return both(tiny(rank, 1e-6, "Spearman"), tiny(divergence, 1e-12, "divergence"))


ROWS = (
    Row(
        "dimensionality: gamma_row",
        "1e-12",
        ("geometry/test_between_blocks.py::test_one_row_per_block_equals_the_package_of_2509_26560",),
        gamma_row,
    ),
    Row(
        "scikit-dimension: TwoNN, and MLE",
        "1e-2; 1e-9 here",
        ("geometry/test_dimension.py::test_estimators_equal_scikit_dimension",),
        nearest,
    ),
    Row("IsoScore", "1e-6", ("geometry/test_spectrum.py::test_isoscore_equals_its_package",), score),
    Row(
        "torch-cka, one batch",
        "1e-5",
        (
            "geometry/test_similarity.py::"
            "test_row_version_equals_torch_cka_which_averages_hsic_over_batches_before_the_ratio",
        ),
        alignment,
    ),
    Row(
        "torchmetrics: rank correlation, divergence",
        "1e-6 (it works in float32); 1e-12",
        (
            "geometry/test_similarity.py::test_stability_equals_torchmetrics",
            "geometry/test_logits.py::test_divergence_equals_loops_and_torchmetrics",
        ),
        metrics,
    ),
)
