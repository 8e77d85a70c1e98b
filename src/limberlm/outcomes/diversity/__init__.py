"""Sampled answers: how often one of k is right (pass@k), and how different they are from each other."""

from __future__ import annotations

from limberlm.outcomes.diversity.outcomes import (
    Answers,
    DiversitySettings,
    SamplingSettings,
    answer_questions,
    diversity_outcomes,
    diversity_rows,
    pass_at_k_outcomes,
)
from limberlm.outcomes.diversity.pass_at_k import paired_pass_at_k, pass_at_k, pass_at_k_rows
from limberlm.outcomes.diversity.quality import expected_distinct, quality_split, rarefied
from limberlm.outcomes.diversity.sampling import sample_answers
from limberlm.outcomes.diversity.texts import (
    bleu,
    distinct_n,
    expectation_adjusted_distinct,
    ngram_kernel,
    pairwise_diversity,
    self_bleu,
    vendi,
)

__all__ = [
    "Answers",
    "DiversitySettings",
    "SamplingSettings",
    "answer_questions",
    "bleu",
    "distinct_n",
    "diversity_outcomes",
    "diversity_rows",
    "expectation_adjusted_distinct",
    "expected_distinct",
    "ngram_kernel",
    "paired_pass_at_k",
    "pairwise_diversity",
    "pass_at_k",
    "pass_at_k_outcomes",
    "pass_at_k_rows",
    "quality_split",
    "rarefied",
    "sample_answers",
    "self_bleu",
    "vendi",
]
