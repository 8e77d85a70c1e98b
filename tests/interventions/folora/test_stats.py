from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.report import warnings_of
from limberlm.interventions.folora.stats import FoloraStats
from limberlm.testbed.tokenizer import tokenizer_digest, train_tokenizer
from tests.interventions.folora.models import DOWN, GATE, Q, brute, llama, rows, texts

LORA = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
V = Q.replace("q_proj", "v_proj")


@pytest.fixture(scope="module")
def stats() -> FoloraStats:
    return preprocess_folora(llama(), LORA, proxy=rows(seed=1), task=rows(seed=2))


def test_they_come_back_from_their_folder_as_they_were(stats: FoloraStats, tmp_path: Path) -> None:
    saved = stats.save(tmp_path / "x.folora")
    loaded = FoloraStats.load(tmp_path / "x.folora")
    for each in (saved, loaded):
        assert each.fingerprint == stats.fingerprint
        assert each.path == tmp_path / "x.folora"
        for name in ("config", "modules", "rank", "digests", "first_shares", "made_with"):
            assert getattr(each, name) == getattr(stats, name)
        for name, basis in stats.bases.items():
            for part in ("gamma", "V", "null", "spectrum"):
                assert torch.equal(getattr(each.bases[name], part), getattr(basis, part))
            assert (each.bases[name].tau, each.bases[name].tokens) == (basis.tau, basis.tokens)
            assert torch.equal(each.proxy_moment(name), stats.proxy_moment(name))
            assert torch.equal(each.task_moments[name], stats.task_moments[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.folora"]
    assert loaded.report().equals(stats.report())


def test_projections_that_share_an_input_share_its_basis_and_moment(stats: FoloraStats) -> None:
    assert stats.basis_of(V) is stats.basis_of(Q)
    assert torch.equal(stats.proxy_moment(V), stats.proxy_moment(Q))
    wanted = brute(llama(), [V, DOWN], texts(seed=1))
    for name in wanted:
        assert torch.allclose(stats.proxy_moment(name).double(), wanted[name], rtol=1e-6, atol=1e-9)
    assert stats.proxy_moment(DOWN).dtype == torch.float32
    with pytest.raises(UserError, match=r"^lm_head: not in the statistics; prepare them with the LoraConfig"):
        stats.basis_of("lm_head")


def test_what_else_lies_in_the_folder_stays_there(stats: FoloraStats, tmp_path: Path) -> None:
    """The proxy's texts, and the starts of null_residual runs, without which their adapters cannot be converted."""
    kept = {"proxy.jsonl": '{"text": "a"}\n', "proxy.counts.json": "{}", "init/0a1b/adapter_config.json": "{}"}
    stats.save(tmp_path / "x")
    for name, text in kept.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(text)
    (tmp_path / "x" / ".proxy.jsonl.0a1b.partial").write_text("what a kill left")
    other = replace(stats, config=FoloraConfig(tau_rel=0.1)).save(tmp_path / "x")
    assert FoloraStats.load(tmp_path / "x").fingerprint == other.fingerprint != stats.fingerprint
    assert {name: (tmp_path / "x" / name).read_text() for name in kept} == kept
    assert not list(tmp_path.rglob("*.partial"))


def test_the_fingerprint_is_of_all_that_decides_a_run(stats: FoloraStats) -> None:
    turned = replace(stats.bases[Q], V=stats.bases[Q].V.flip(1))
    others = [
        replace(stats, config=FoloraConfig(skip_positions=(0,))),
        replace(stats, rank=2),
        replace(stats, digests={**stats.digests, "base": "0"}),
        replace(stats, bases={**stats.bases, Q: turned}),
        replace(stats, bases={**stats.bases, Q: replace(stats.bases[Q], tau=1.0)}),
        replace(stats, modules={**stats.modules, V: GATE}),
    ]
    assert len({each.fingerprint for each in [stats, *others]}) == 7
    assert replace(stats, path=Path("x")).fingerprint == stats.fingerprint
    gate = FoloraConfig(lam=2.0, s_min=0.1, step_scale="raw")  # the optimizer's state holds it
    assert replace(stats, config=gate).fingerprint == stats.fingerprint


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("COMPLETE", "gone"),
        *((f, h) for f in ("manifest.json", "basis.safetensors") for h in ("gone", "cut", "changed")),
    ],
)
def test_a_damaged_folder_is_refused(stats: FoloraStats, tmp_path: Path, file: str, harm: str) -> None:
    stats.save(tmp_path / "x")
    path = tmp_path / "x" / file
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif file == "manifest.json":
        about = json.loads(data)
        about["inputs"][Q]["tau"] *= 2
        path.write_text(json.dumps(about))
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"^{tmp_path}/x.*prepare|^{tmp_path}/x.*cannot be read") as raised:
        FoloraStats.load(tmp_path / "x")
    assert "\n" not in str(raised.value)


def test_moments_that_cannot_be_read_are_told_when_they_are_asked_for(stats: FoloraStats, tmp_path: Path) -> None:
    saved = stats.save(tmp_path / "x")
    (tmp_path / "x" / "proxy_moments.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"proxy_moments.safetensors: cannot be read .* prepare"):
        FoloraStats.load(saved.path).proxy_moment(Q)


def test_another_format_is_refused(stats: FoloraStats, tmp_path: Path) -> None:
    stats.save(tmp_path / "x")
    manifest = tmp_path / "x" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="format 99 of a later limberlm"):
        FoloraStats.load(tmp_path / "x")


def test_another_base_is_refused_and_an_adapted_one_is_known(stats: FoloraStats) -> None:
    stats.refuse_other_base(llama())
    stats.refuse_other_base(get_peft_model(llama(torch.float32), LORA))
    with pytest.raises(
        UserError, match=r"^the statistics: taken of the base \w{8}, and this model's is \w{8}; prepare"
    ):
        stats.refuse_other_base(llama(seed=3))


def test_another_tokenizer_is_refused(stats: FoloraStats, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    stats.refuse_other_tokenizer(tiny_tokenizer)  # rows were ids
    known = replace(stats, digests={**stats.digests, "tokenizer": tokenizer_digest(tiny_tokenizer)})
    known.refuse_other_tokenizer(tiny_tokenizer)
    other = train_tokenizer(["other texts " * 50], 300)
    with pytest.raises(
        UserError, match=r"^the statistics: read with the tokenizer \w{8}, and this one is \w{8}; prepare"
    ):
        known.refuse_other_tokenizer(other)


def test_other_targets_and_a_larger_rank_are_refused(stats: FoloraStats) -> None:
    ranks = dict.fromkeys(stats.modules, 3)
    stats.refuse_other_targets(ranks)
    stats.refuse_other_targets(ranks | {Q: 1})
    with pytest.raises(UserError, match=f"^{Q}: rank 4, and the statistics were prepared for 3"):
        stats.refuse_other_targets(ranks | {Q: 4})
    with pytest.raises(UserError, match=r"^lm_head: not in the statistics"):
        stats.refuse_other_targets(ranks | {"lm_head": 3})
    with pytest.raises(UserError, match=f"^{Q}: not in the adapter"):
        stats.refuse_other_targets({name: 3 for name in ranks if name != Q})


def test_the_report_says_what_the_bases_are(stats: FoloraStats) -> None:
    report = stats.report()
    assert list(report.index) == list(stats.bases)
    tokens = sum(map(len, texts(seed=1))), sum(map(len, texts(seed=2)))
    row, basis = report.loc[DOWN], stats.bases[DOWN]
    assert (row.d, row.n_p, row.n_t) == (24, *tokens)
    assert row.tau_rel == pytest.approx(0.01)
    assert row.null_ratio == pytest.approx(float(basis.spectrum[:3].mean() / basis.spectrum.mean()))
    assert row.on_floor == pytest.approx(float((basis.gamma <= 3 / 7).double().mean()))
    assert row.above_1 == pytest.approx(float((basis.gamma > 1).double().mean()))
    assert row.c == pytest.approx((24**0.5) / float(basis.V.norm()), rel=1e-5)
    H = stats.proxy_moment(DOWN).double() + basis.tau * torch.eye(24)
    assert row.condition == pytest.approx(float(torch.linalg.cond(H)), rel=1e-4)
    assert row.band_low < 1 < row.band_high


def test_each_thing_that_gives_pause_has_its_sentence(stats: FoloraStats) -> None:
    report, config = stats.report(), stats.config
    fine = report.assign(n_p=10_000, n_t=10_000, rank_p=report.d, rank_t=report.d, null_ratio=0.01)
    assert warnings_of(fine, config) == []
    for change, words in (
        ({"n_t": 100}, "fewer than 10 tokens for each direction"),
        ({"rank_p": 3}, "directions that proxy or task never use"),
        ({"null_ratio": 0.2}, "null ratio above 0.1"),
        ({"first_t": 0.6}, r"skip_positions=(0,)"),
        ({"tau_rel": 0.02}, "the ridge was raised"),
    ):
        told = warnings_of(fine.assign(**change), config)
        assert len(told) == 1
        assert told[0].startswith(f"8 of 8 inputs, {Q} the first: ")
        assert words in told[0]


def test_warnings_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        preprocess_folora(llama(), LORA, proxy=rows(), task=rows())
    assert "fewer than 10 tokens for each direction" in caplog.text
