"""Page by page: what its reader has already, and what is made smaller; and the commands that no test runs, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.docs.snippets.world import (
    PROBE,
    Maker,
    adapter,
    adapters,
    checkpoints,
    geometries,
    model,
    ours,
    planted,
    rewarded,
    samples,
    study,
    text,
    verdict,
    written,
)

ARITHMETIC = samples("arithmetic", "sft")
PAIRS = samples("preferences", "dpo")
PROBLEMS = [{"prompt": f"What is {i} + {i}?", "solution": str(2 * i)} for i in range(10, 40)]
ANSWERS = [{"outcome": "accuracy", "task": "qa", "item": f"q{i}", "value": i % 2} for i in range(64)]
TRL_FILE = (
    "dataset_name: rows.jsonl\nlearning_rate: 2.0e-4\nuse_peft: true\nlora_r: 4\nlora_target_modules: all-linear\n"
)
THREE = {"base": model(), "sft": model(0.01), "dpo": model(0.02)}
TEXTS: Mapping[str, Maker] = {"texts.jsonl": written(PROBE)}
CLONE = {"examples": ours, "recipes": ours, "docs": ours}


@dataclass(frozen=True)
class Story:
    """What a page assumes by path, and the words in its blocks that stand for something too long to try."""

    assumes: Mapping[str, Maker] = field(default_factory=dict)
    smaller: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False


STORIES = {
    "README.md": Story(
        THREE
        | TEXTS
        | {
            "path/to/model": model(),
            "dolly.jsonl": written(samples("instructions", "sft")),
            "gsm8k.parquet": written(ARITHMETIC),
            "pairs.jsonl": written(PAIRS),
            "runs/order": planted,
        }
    ),
    "docs/findings/early_warning.md": Story(
        CLONE | {"study.yaml": study(checkpoints=2), "sft/geometry": geometries(0, 2, 4)}
    ),
    "docs/findings/interventions.md": Story(CLONE | {"runs/interventions": planted}),
    "docs/findings/orderings.md": Story(CLONE),
    "docs/findings/post_training.md": Story(CLONE),
    "docs/findings/prediction.md": Story(CLONE | {"runs/prediction": planted}),
    "docs/findings/pretraining.md": Story(CLONE),
    "docs/guides/callback.md": Story(
        {
            "base": model(),
            "train.jsonl": written(ARITHMETIC),
            "prose.jsonl": written(PROBE),
            "code.jsonl": written(PROBE),
            "output/geometry": geometries(0, 400),
        }
        | TEXTS,
        {"max_steps=200": "max_steps=2"},
    ),
    "docs/guides/checkpoints.md": Story(THREE | TEXTS, quick=True),
    "docs/guides/gate.md": Story(
        {
            "base": model(),
            "candidate": model(0.001),
            "adapter": adapter(),
            "probe.jsonl": written(PROBE),
            "base.jsonl": written(ANSWERS),
            "candidate.jsonl": written(ANSWERS),
            "verdict.json": verdict,
        }
    ),
    "docs/guides/hand_over.md": Story(
        {
            "base": model(),
            "runs/order/nodes/sft-8c2f3a91d0e4/adapter": adapter(0),
            "runs/order/nodes/dpo-51e0b7c2a9f3/adapter": adapter(1),
        },
        quick=True,
    ),
    "docs/guides/many_processes.md": Story({"dpo": model(), "big": model(), "texts.parquet": written(PROBE)}),
    "docs/guides/orderings.md": Story({"runs/order": planted, "adapters/math": adapter()}, quick=True),
    "docs/guides/prediction.md": Story(CLONE | {"runs/prediction": planted}),
    "docs/guides/ray.md": Story({"study.yaml": study()}, quick=True),
    "docs/guides/stages.md": Story(
        {
            "rows.jsonl": written(ARITHMETIC),
            "test.jsonl": written(ARITHMETIC[:1]),
            "problems.jsonl": written(PROBLEMS),
            "sft.yaml": text(TRL_FILE),
        },
        quick=True,
    ),
    "docs/guides/study.md": Story({"runs/other": planted, "runs/rlvr": rewarded}),
    "docs/guides/trace.md": Story(
        {
            "runs/base": checkpoints(10, 20, 40),
            "runs/sft": adapters(5, 10),
            "runs/dpo": adapters(5, 10),
        }
    ),
    "docs/guides/trl.md": Story({"base": model(), "sft": model(0.01), "output/sft": adapter()} | TEXTS),
    "docs/guides/updates.md": Story(
        {"base": model(), "sft": adapter(0), "dpo": adapter(1), "math": adapter(2)}, quick=True
    ),
    "docs/interventions/decorrelation.md": Story(
        CLONE | {"runs/sft/adapter": adapter(0), "runs/math/adapter": adapter(1)}
    ),
    "docs/interventions/folora.md": Story(
        CLONE | {"base": model(), "math.jsonl": written(ARITHMETIC)},
        {"n=2000": "n=16, max_new_tokens=32, start_token=1"},
    ),
    "docs/interventions/guard.md": Story(CLONE | TEXTS),
    "docs/reference/agreement.md": Story(quick=True),
    "docs/reference/example.md": Story({"stories260k": model()}),
    "docs/reference/plasticity.md": Story(quick=True),
    "docs/reference/toy.md": Story(CLONE),
    "docs/start.md": Story({"before": model(), "after": model(0.01), "rows.jsonl": written(ARITHMETIC)} | TEXTS),
    "docs/testbed.md": Story(quick=True),
}
"""Pages that are not here have a clone of the repository and nothing else."""

LESS = {
    "limber measure stories260k": "--max-tokens 1500",
    "limber trace": "--sequences 256",
    "limber pretrain": "--steps 2",
    "limber folora prepare": "--texts 16 --max-new-tokens 32 --start-token 1",
    "limber run recipes/": "--dry-run",
    "python examples/": "--steps 2",
    "python examples/guard.py": "--items 8 --seeds 0 --every 1",
    "python examples/early_warning.py": "--items 8",
    "python examples/early_stop.py": "--evaluations 4 --steps 8",
    "python examples/replay.py": "--seed 0 --ratio 0.1",
    "python examples/decorrelation.py": "--weight 1",
    "python examples/l2_to_base.py": "--weight 0.01",
}
"""Words behind a command that begins so: a reader in a hurry could add them. Every one that fits is added."""

NOT_TYPED = {
    r"pip install .*": "installs into the environment that the tests run in",
    r"apt-get .*|\.venv/bin/pre-commit install": "changes the machine, or the clone's hooks",
    r"ray start .*": "starts a cluster that outlives the test",
    r"limber run .* --engine ray --address auto": "needs that cluster; tests/study/run/test_ray.py runs one of its own",
    r"limber run .* --store s3://.*": "needs a bucket; tests/study/store has one of its own, and folders as addresses",
    r"python -m tests\..*": "makes a page of this documentation, in minutes to hours; tests/docs hold its program",
    r"python -m recipes\.tradeoff .*": "hundreds of trainings, and their tables; tests/recipes/test_tradeoff.py",
    r"limber trace recipes/traces/pythia-1b.yaml .*": "asks the hub; tests/study/series has one of its own",
    r"python docs/trace_page.py .*": "needs a trace of three stages; tests/docs/test_trace_page.py has one",
    r"python examples/trace_post_training.py .*": "needs a study of three seeds; tests/study/trace runs what it calls",
    r"python examples/folora.py --model \$LIMBER_SHARED.*": "needs shared data; tests/examples/test_folora.py",
}
"""Commands that no test types from a page (patterns of the whole command), with the reason."""

NOT_TRIED = {
    "lm_eval_outcomes(": "asks the hub for questions; tests/outcomes/lm_eval has tasks of its own",
    "on: pull_request": "a workflow; tests/docs/test_gate_page.py runs its steps",
}
"""Other blocks that no test runs from a page (words that they hold), with the reason."""
