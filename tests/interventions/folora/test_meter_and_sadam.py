"""The meter and the proxy beside what else foundation-preserving LoRA is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from limberlm.interventions.folora.callback import FoloraCallback
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.optimizer import create_folora_optimizer
from limberlm.interventions.folora.prepare import preprocess_folora
from limberlm.interventions.folora.proxy import sample_proxy
from limberlm.interventions.folora.start import initialize_lora_folora_weights
from limberlm.interventions.folora.stats import FoloraStats
from limberlm.interventions.folora.texts import proxy_texts
from limberlm.testbed.tokenizer import train_tokenizer
from tests.observe.training.test_callback_trainers import load, rows, trainer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
DRAWN: dict[str, Any] = {"n": 24, "min_new_tokens": 32, "max_new_tokens": 40, "batch_size": 24}


@pytest.fixture(scope="module")
def stats(tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> FoloraStats:
    model, out = load(tiny_model_folder), tmp_path_factory.mktemp("stats") / "tiny.folora"
    proxy = sample_proxy(model, tiny_tokenizer, start_token=tiny_tokenizer.eos_token_id, **DRAWN)
    given = {"proxy": proxy, "task": rows("sft"), "tokenizer": tiny_tokenizer}
    return preprocess_folora(model, LORA, FoloraConfig(init="keep"), out=out, **given)


def trained(base: Path, out: Path, stats: FoloraStats, **settings: Any) -> list[dict[str, Any]]:
    """What three steps of SAdam logged."""
    torch.manual_seed(0)  # of A
    model = get_peft_model(load(base), LORA)
    initialize_lora_folora_weights(model, stats)
    run = trainer("sft", base, out, FoloraCallback(stats, every=1), model=model, lr_scheduler_type="constant")
    run.optimizer = create_folora_optimizer(model, stats, lr=1e-2, **settings)
    run.train()
    return [entry for entry in run.state.log_history if "limber/folora_drift" in entry]


def test_the_steps_of_sadam_are_as_long_as_its_gate_lets_them_be(
    tiny_model_folder: Path, tmp_path: Path, stats: FoloraStats
) -> None:
    """In its second step, the first in which A has a gradient, Adam's u is +-0.744."""
    free, shut = (trained(tiny_model_folder, tmp_path / str(lam), stats, lam=lam) for lam in (0.0, 1e12))
    moved = [[entry["limber/folora_step"] for entry in run] for run in (free, shut)]
    assert moved[0][0] == moved[1][0] == 0
    assert moved[0][1] == pytest.approx(0.744, rel=0.1)
    assert moved[1][1] == pytest.approx(0.3 * moved[0][1], rel=1e-3)
    assert [entry["limber/folora_floor"] for entry in free] == [0, 0, 0]
    assert shut[-1]["limber/folora_floor"] == pytest.approx(1)


def test_a_proxy_is_read_as_it_was_drawn_and_anothers_is_tokenised_again(
    tiny_model_folder: Path, tiny_tokenizer: Any
) -> None:
    proxy = sample_proxy(load(tiny_model_folder), tiny_tokenizer, start_token=tiny_tokenizer.eos_token_id, **DRAWN)
    assert [list(text.ids) for text in proxy_texts(proxy, tiny_tokenizer)] == proxy["input_ids"][:]
    other = train_tokenizer(["the cat sat on the mat and looked at it " * 40], 300)
    other.bos_token = other.convert_ids_to_tokens(3)
    again = [list(text.ids) for text in proxy_texts(proxy, other)]
    assert again == [[3, *other(text)["input_ids"]] for text in proxy["text"]]
