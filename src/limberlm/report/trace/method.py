"""How the numbers of a trace were made, each statement with the label of its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from limberlm.report import words
from limberlm.report.trace.data import Trace

EVIDENCE = {"P": "claimed by arXiv 2509.23024", **words.EVIDENCE}

LAST = (
    "One row per probe sequence: the state of its last token at the final norm, before the unembedding, centred. That "
    "is the tensor of 2509.23024."
)

NOTES: tuple[tuple[str, str], ...] = (
    (
        "P",
        "What 2509.23024 calls RankMe is the effective rank of the centred covariance: the exponential of the entropy "
        "of its eigenvalues. The metric called RankMe in 2210.02885, and here, takes singular values and reads 1.1 to "
        "40 times higher.",
    ),
    (
        "O",
        "alpha-ReQ: the weighted slope of ln eigenvalue on −ln rank over ranks 12 to 100, weights 1/rank, window and "
        "weights as in the code released with 2509.23024. It is the plug-in value; its interval is about the "
        "bias-corrected one, so a value may lie outside it.",
    ),
    (
        "N",
        "Intervals are 95 %, from a delete-one-block jackknife over blocks of probe sequences; ranks are handled on "
        "the logarithmic scale and bias-corrected. They are over probe sequences for fixed checkpoints and say nothing "
        "about training seeds.",
    ),
    ("S", "Levels at different numbers or lengths of probe sequences do not compare; the shape of a curve does."),
    (
        "O",
        "A phase is a stretch over which the logarithm of the effective rank is monotone up to noise. Its swing is at "
        "least 0.05, has an interval that excludes 0, and does not rest on one checkpoint. The paper gives no rule. "
        "The horizontal axis is log(t + smallest t), so that step 0 has a place; phases are sought on it.",
    ),
    (
        "N",
        "Slow wander of a single run cannot be told from a phase. A claim of phases needs the same pattern in every "
        "seed, in three at least.",
    ),
    (
        "O",
        "A stage expands if the interval of the change of ln effective rank from its start to its end lies above "
        "+0.02, compresses if it lies below −0.02, shows no change if it lies between, and is inconclusive otherwise. "
        "Changes are paired over the same blocks of probe sequences.",
    ),
    (
        "P",
        "That SFT and DPO expand and RLVR compresses was reported from one family of models, one run each: a "
        "hypothesis here, never an alarm.",
    ),
    (
        "O",
        "Memorization: the rank correlation, over examples, of the log-probability of a target under the model and "
        "under an infinity-gram model of the training corpus. Target length alone can make most of it, so the partial "
        "correlation given the length leads.",
    ),
    (
        "O",
        "Correlations over checkpoints: both series trend and neighbours depend on each other, so the plain p-value, "
        "the paper's, is naive. First differences, the correlation given ln t and circular shifts stand beside it.",
    ),
    ("O", "Intervals of outcomes are over items (questions, held-out texts, problems)."),
)


def measured(runs: Sequence[Trace]) -> str:
    """Which tensor was read, over how many sequences and tokens."""
    first = runs[0]
    site, convention = first.place()
    table = first.geometry
    rows = table[(table["site"] == site) & (table["convention"] == convention)]
    if convention == "last":
        said = LAST
    else:
        said = f"Read at the {words.site_title(site)}: {words.CONVENTIONS.get(convention, convention)}."
    probe = (first.measured.get("probe") or {}).get("in_words")
    if probe is None:
        sequences = " or ".join(words.count(n) for n in sorted(rows["n_sequences"].unique()))
        longest = (first.series.get("probe") or {}).get("max_tokens")
        probe = f"{sequences} sequences" + (f" of at most {longest} tokens" if longest else "")
    return f"{said} Probe: {probe}."


def warnings(runs: Sequence[Trace]) -> list[str]:
    """What was written down about the numbers when they were taken, without repeats."""
    return list(dict.fromkeys(str(note).rstrip(".") for run in runs for note in run.measured.get("notes") or []))
