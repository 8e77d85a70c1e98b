"""Each preset's numbers against brute force under its own convention, so that they can stand beside published ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from limberlm.errors import UserError
from limberlm.observe import ProbeSet, measure
from limberlm.observe.forward.presets import PRESETS
from tests.observe import brute_values as v
from tests.observe.brute import Stored, stored
from tests.observe.tiny import mixed_probe, tiny, word_tokenizer

PROBE = mixed_probe()
EVERYTHING = replace(
    PROBE,
    sequences=tuple(replace(s, keep=(True,) * len(s.ids)) for s in PROBE.sequences),
    token_filter=(),
)
"""The same sequences with the first and the special tokens kept."""


def _model(seed: int = 0):
    model = tiny(seed=seed, max_position_embeddings=128)
    with torch.no_grad():
        model.model.norm.weight.uniform_(0.3, 1.7)
    return model


@pytest.fixture(scope="module")
def filtered() -> Stored:
    return stored(_model(), PROBE)


@pytest.fixture(scope="module")
def whole() -> Stored:
    return stored(_model(), EVERYTHING)


def _values(preset: str, probe: ProbeSet, **options):
    geometry = measure(_model(), probe, preset=preset, **options)
    assert geometry.manifest["convention"]["preset"] == preset
    table = geometry.table[~geometry.table["metric"].str.endswith("_corrected")]
    return table.set_index(["site", "convention", "metric"])["value"], geometry


def test_paper_3_1_reads_all_tokens_of_the_residual_stream_centred(whole):
    base = _model(seed=1)
    values, geometry = _values("paper_3_1", EVERYTHING, reference=base)
    theirs = stored(base, EVERYTHING)
    assert set(values.index.get_level_values("convention")) <= {"raw", "trimmed"}
    assert EVERYTHING.n_tokens == sum(len(s.ids) for s in PROBE.sequences) > PROBE.n_tokens
    assert set(geometry.table["n_tokens"]) == {EVERYTHING.n_tokens}
    for site, rows in whole.states.items():
        spectrum, moving = v.spectrum(rows), np.abs(rows).max(1) > 0
        expected = {
            "effective_rank": v.exp_entropy(spectrum),
            "effective_rank_normalised": v.exp_entropy(spectrum) / 40,
            "participation_ratio": spectrum.sum() ** 2 / (spectrum**2).sum(),
            **{f"variance_share_{k}": spectrum[:k].sum() / spectrum.sum() for k in (1, 8, 32)},
            "anisotropy": v.pair_mean(v.cosine_sums(rows[moving], whole.of_token[moving]), -1, inside=False),
            "cka_uncentred": v.cka_plain(rows, theirs.states[site]),
            "cka_biased": v.cka_plain(rows - rows.mean(0), theirs.states[site] - theirs.states[site].mean(0)),
        }
        for name, value in expected.items():
            assert values[site, "raw", name] == pytest.approx(value, rel=1e-5), (site, name)
        assert np.isfinite(values[site, "raw", "anisotropy_centred"])


def test_paper_3_1_sigma_weighs_the_final_norm_by_singular_values(whole):
    values, _ = _values("paper_3_1_sigma", EVERYTHING)
    rank = v.exp_entropy(np.sqrt(v.spectrum(whole.states["final_norm"])))
    assert values["final_norm", "raw", "rankme"] == pytest.approx(rank, rel=1e-5)
    assert values["final_norm", "raw", "rank_sigma_normalised"] == pytest.approx(rank / 40, rel=1e-5)


def test_rankme_lasttoken_takes_eigenvalues_of_the_last_tokens(filtered):
    values, geometry = _values("rankme_lasttoken", PROBE)
    last = filtered.states["final_norm"][filtered.ends]
    assert values["final_norm", "last", "effective_rank"] == pytest.approx(v.exp_entropy(v.spectrum(last)), rel=1e-5)
    assert set(values.index.get_level_values("site")) == {"final_norm"}
    assert geometry.table["n_tokens"].tolist() == [48] * len(geometry.table)
    reason = geometry.manifest["undefined"]["final_norm/last/alpha_req"]
    assert reason == "needs 100 eigenvalues above 1e-12 of the largest, there are 40"


def test_rankme_garrido_adds_its_constant_and_does_not_centre(filtered):
    values, _ = _values("rankme_garrido", PROBE)
    last = filtered.states["final_norm"][filtered.ends]
    sigma = np.linalg.svd(last, compute_uv=False)
    shares = sigma / sigma.sum() + 1e-7
    assert values["final_norm", "last", "rankme_garrido"] == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()), rel=1e-6
    )


def test_tracing_release_adds_its_constant_and_does_not_divide_again(filtered):
    values, _ = _values("tracing_release", PROBE)
    spectrum = v.spectrum(filtered.states["final_norm"][filtered.ends])
    shares = spectrum / spectrum.sum() + 1e-7
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert values["final_norm", "last", "rank_tracing_release"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_tracing_release_stops_at_2048_eigenvalues():
    """2100 last tokens in 2080 dimensions have 2080 eigenvalues; the shares are those of the 2048 largest."""
    model = tiny(num_hidden_layers=1, hidden_size=2080, intermediate_size=8, num_attention_heads=2)
    rng = np.random.default_rng(0)
    sequences = tuple(
        replace(PROBE.sequences[0], ids=tuple(rng.integers(3, 97, 4).tolist()), keep=(False, True, True, True))
        for _ in range(2100)
    )
    probe = ProbeSet(sequences, "many", 4)
    value = measure(model, probe, preset="tracing_release").value("rank_tracing_release", "final_norm")
    last = stored(model, probe).states["final_norm"][2::3]
    spectrum = np.linalg.svd(last - last.mean(0), compute_uv=False)[:2048] ** 2
    shares = spectrum / spectrum.sum() + 1e-7
    assert value == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_diff_erank_is_the_exponential_of_the_mean_entropy_of_windows(filtered):
    values, _ = _values("diff_erank", PROBE)
    windows = filtered.windows(filtered.states["final_norm"])
    expected = np.exp(np.mean([v.diff_erank_entropy(window) for window in windows]))
    assert values["final_norm", "raw", "diff_erank"] == pytest.approx(expected, rel=1e-6)


def test_logit_weighted_sees_each_site_through_the_head(filtered):
    """The explicit n x V matrix of what the head would say of each site, the final norm's scale folded in."""
    values, geometry = _values("logit_weighted", PROBE)
    model = _model()
    head, scale = (w.detach().double().numpy() for w in (model.lm_head.weight, model.model.norm.weight))
    for site, rows in filtered.states.items():
        units = rows / np.sqrt((rows**2).mean(1, keepdims=True))
        through = units @ head.T if site == "final_norm" else units * scale @ head.T
        expected = v.exp_entropy(v.spectrum(through - through.mean(1, keepdims=True)))
        assert values[site, "rms", "output_weighted_rank"] == pytest.approx(expected, rel=1e-5), site
    spectrum = v.spectrum(filtered.logits - filtered.logits.mean(1, keepdims=True))
    assert values["logits", "raw", "logit_effective_rank"] == pytest.approx(v.exp_entropy(spectrum), rel=1e-5)
    assert set(geometry.table["family"]) == {"logits"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reports_what_it_names_and_no_more(preset):
    chosen = PRESETS[preset]
    probe = PROBE if chosen.token_filter else EVERYTHING
    geometry = measure(_model(), probe, preset=preset, layers=[0])
    against = {"cka_uncentred", "cka_biased"}
    names = set(geometry.table["metric"].str.removesuffix("_corrected"))
    if chosen.metrics:
        assert names == set(chosen.metrics) - against
    assert set(geometry.table["convention"]) - {"trimmed", "rms_uncentred"} <= set(chosen.conventions)
    assert geometry.manifest["convention"]["token_filter"] == list(chosen.token_filter)


def test_a_text_probe_is_tokenised_with_the_presets_filter():
    rows = [{"text": f"sentence {i} about {'xyz'[i % 3] * (i % 5 + 2)}"} for i in range(20)]
    counts = {
        preset: measure(_model(), rows, preset=preset, tokenizer=word_tokenizer(), layers=[]).manifest["convention"]
        for preset in ("paper_3_1", "diff_erank")
    }
    assert counts["paper_3_1"]["n_tokens"] == counts["diff_erank"]["n_tokens"] + 20, "the first token of each"


def test_a_ready_probe_of_another_filter_is_refused_with_both():
    with pytest.raises(
        UserError, match=r"^probe: its token filter is drop_first\+drop_special, preset paper_3_1 has none;"
    ):
        measure(_model(), PROBE, preset="paper_3_1")
    with pytest.raises(
        UserError, match=r"^probe: its token filter is none, preset robust has drop_first\+drop_special;"
    ):
        measure(_model(), EVERYTHING)


def test_an_unknown_preset_or_suite_is_refused_with_what_there_is():
    with pytest.raises(UserError, match=r'preset: no "robus" \(did you mean "robust"\?\); there is robust, paper_3_1,'):
        measure(_model(), PROBE, preset="robus")
    with pytest.raises(UserError, match='suite: no "whole"; there is core and full'):
        measure(_model(), PROBE, suite="whole")
