"""One small file of every format, as this release writes it, and numbers that can be read from each.

    python -m tests.formats.make

writes `tests/formats/vN/KIND` and `vN/numbers.json` for every kind whose version in `FORMATS` has no artefact yet. What
is there is never written again: it is what an older release left.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

import limberlm
from limberlm.analysis.trace import analyse_trace
from limberlm.formats import FORMATS
from limberlm.interventions.folora import FoloraStats, preprocess_folora
from limberlm.observe import Geometry, load_tokenizer
from limberlm.outcomes.memorization.corpora import load_rows
from limberlm.outcomes.memorization.infinigram import Infinigram
from limberlm.report.trace.data import read_trace
from limberlm.study import Results
from limberlm.study.series.series import load_series
from limberlm.study.trace.run import run_trace
from limberlm.testbed.pretrain import _write_corpus
from limberlm.testbed.tokenizer import train_tokenizer
from tests.study.planted_run import plant
from tests.study.series.series_world import write_adapter, write_run, write_series

HERE = Path(__file__).parent
TEXTS = [{"text": f"the cat number {i} sat on mat {i * 7}", "domain": ("a", "b")[i % 2]} for i in range(24)]
TOKENS = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3, 5], np.uint16)


def model_folder(folder: Path) -> Path:
    """A random Llama of width 8 with one block, and its tokenizer."""
    tokenizer = train_tokenizer([row["text"] for row in TEXTS], 280)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(
        **shape,
        vocab_size=len(tokenizer),
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


Numbers = dict[str, float]


def geometry(out: Path, model: Path) -> None:
    limberlm.measure(str(model), TEXTS, max_length=8).save(out)


def updates(out: Path, model: Path) -> None:
    limberlm.measure_updates([write_adapter(model, Path(f"adapter-{seed}"), seed) for seed in (0, 1)]).save(out)


def folora(out: Path, model: Path) -> None:
    lora = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    loaded = LlamaForCausalLM.from_pretrained(model)
    rows = [{"prompt": row["text"], "completion": " and slept"} for row in TEXTS]
    preprocess_folora(loaded, lora, proxy=TEXTS, task=rows, tokenizer=load_tokenizer(str(model))).save(out)


def index(out: Path, model: Path) -> None:
    Infinigram.build(TOKENS, 8, tokenizer="none").save(out)


def verdict(out: Path, model: Path) -> None:
    one = limberlm.measure(str(model), TEXTS, max_length=8)
    policy = {"criteria": [{"metric": "effective_rank", "margin": "5 %"}]}
    out.write_text(json.dumps(limberlm.gate(one, one, policy).to_json(), indent=1) + "\n")


def run(out: Path, model: Path) -> None:
    """A study of one stage, planned and stored as a run does, its outcomes made up, without geometry."""
    stage = {"trainer": "sft", "data": "testbed:arithmetic", "rows": 16, "args": {"max_steps": 2}}
    settings = {"base": "bundled", "stages": {"math": stage}, "outcomes": {"items": 4}}
    unread = limberlm.measure(str(model), TEXTS, max_length=8)
    plant(Path.cwd(), settings, unread, lacks=lambda node, part: part not in ("make", "retention")).rename(out)


def trace(out: Path, model: Path) -> None:
    write_run(model, Path("steps"), (0, 5, 10))
    series = write_series(Path("series.yaml"), [{"path": "steps/step-*", "stage": "pretraining"}])
    run_trace(load_series(series), out)
    analyse_trace(out)
    for path in sorted(out.rglob("*"), reverse=True):  # the tables of the whole are what is read back
        if path.relative_to(out).parts[0] not in ("trace.parquet", "checkpoints.json", "phases.json", "series.yaml"):
            path.rmdir() if path.is_dir() else path.unlink()


def corpus(out: Path, model: Path) -> None:
    out.mkdir()
    _write_corpus(np.arange(12, dtype=np.uint16).reshape(3, 4), load_tokenizer(str(model)), out)


def of_geometry(path: Path) -> Numbers:
    found = Geometry.load(path)
    weight = float(found.statistics["block.0/rms/covariance"].sum())
    return {"rank": found.value("effective_rank"), "entropy": found.value("entropy_median"), "covariance": weight}


def of_updates(path: Path) -> Numbers:
    found = limberlm.Updates.load(path)
    stage = str(found.table["stage"].iloc[0])
    return {"rank": found.value("update_effective_rank", stage), "rows": len(found.table)}


def of_folora(path: Path) -> Numbers:
    found = FoloraStats.load(path)
    [basis] = found.bases.values()
    [moment] = (found.proxy_moments[name] for name in found.proxy_moments)
    return {"spectrum": float(basis.spectrum.sum()), "moment": float(moment.sum())}


def of_index(path: Path) -> Numbers:
    return {"count": float(Infinigram.load(path).counts([[1, 2, 3]])[0])}


def of_verdict(path: Path) -> Numbers:
    found = limberlm.Verdict.load(path)
    return {"passes": float(found.decision == "pass"), "replays": float(found.replayed() == found)}


def of_run(path: Path) -> Numbers:
    table = Results(path).table("outcomes")
    loss = table[(table["outcome"] == "loss") & (table["task"] == "arithmetic") & (table["stage"] == "math")]
    return {"loss": float(loss["value"].iloc[0]), "rows": len(table)}


def of_trace(path: Path) -> Numbers:
    found = read_trace(path).geometry
    ranks = found[(found["metric"] == "effective_rank") & (found["site"] == "final_norm")]["value"]
    return {"first": float(ranks.iloc[0]), "last": float(ranks.iloc[-1]), "rows": len(found)}


def of_corpus(path: Path) -> Numbers:
    return {"sum": float(load_rows(path).rows.sum())}


MAKE: dict[str, Callable[[Path, Path], None]] = {kind: globals()[kind] for kind in FORMATS}
READ: dict[str, Callable[[Path], Numbers]] = {kind: globals()[f"of_{kind}"] for kind in FORMATS}
SUFFIX = {"updates": "updates.parquet", "verdict": "verdict.json"}


def place(kind: str, version: int) -> Path:
    """Where the artefact of a version lies."""
    return HERE / f"v{version}" / SUFFIX.get(kind, kind)


def main() -> None:
    """Make what is missing."""
    for kind, version in FORMATS.items():
        target = place(kind, version)
        if target.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
            MAKE[kind](Path(target.name).absolute(), model_folder(Path("model")))
            target.parent.mkdir(exist_ok=True)
            for path in [p for p in Path(target.name).rglob("*.yaml")]:
                path.write_text(path.read_text().replace(scratch, "/made"))
            shutil.move(target.name, target)
        numbers = target.parent / "numbers.json"
        known = json.loads(numbers.read_text()) if numbers.exists() else {}
        numbers.write_text(json.dumps(known | {kind: READ[kind](target)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
