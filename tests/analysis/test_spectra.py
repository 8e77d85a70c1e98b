"""Spectra of a run's checkpoints, from the covariances that it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limberlm.analysis.spectra import shares, spectra
from limberlm.observe import Geometry
from limberlm.report.study.spectra import spectrum_section
from limberlm.study import Study
from limberlm.study.results.results import Results
from limberlm.study.store.names import GEOMETRY


def test_shares_are_numpys_eigenvalues_at_few_ranks() -> None:
    samples = torch.randn(500, 200, generator=torch.Generator().manual_seed(0)).numpy()
    covariance = np.cov(samples.T)
    values = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    found = shares(torch.from_numpy(covariance))
    assert found["share"].to_numpy() == pytest.approx(values[found["rank"] - 1] / np.trace(covariance))
    assert (found["rank"].iloc[0], found["rank"].iloc[-1]) == (1, 200)
    assert len(found) <= 60


def test_a_runs_spectra_give_its_own_metrics(finished: Study) -> None:
    results = Results(finished.out)
    chain = results.chains[0]
    table = spectra(results, chain)
    assert table["stage"].unique().tolist() == ["base", "sft", "dpo"]
    (site,) = table["site"].unique()
    for index, node in enumerate(chain.nodes):
        geometry = Geometry.load(results.store.part(node, GEOMETRY) / GEOMETRY)
        own = table[table["stage_index"] == index].set_index("rank")["share"]
        assert own.loc[1] == pytest.approx(geometry.value("variance_share_1", site, "rms"), rel=1e-4)
        assert own.loc[:8].sum() == pytest.approx(geometry.value("variance_share_8", site, "rms"), rel=1e-4)


def test_the_figure_has_a_line_per_stage_and_nothing_where_there_is_no_spectrum(finished: Study) -> None:
    results = Results(finished.out)
    table = spectra(results, results.chains[0])
    section = spectrum_section(table, "sft > dpo")
    assert section is not None
    (picture,) = section.pictures
    assert [line["name"] for line in picture.figure.data] == ["base", "sft", "dpo"]
    assert picture.figure.data[2]["y"] == table.loc[table["stage_index"] == 2, "share"].tolist()
    assert spectrum_section(table.head(0), "x") is None
