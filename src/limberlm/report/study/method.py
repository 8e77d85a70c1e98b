"""How the numbers were made, each statement with the label of its evidence."""

from __future__ import annotations

NOTES: tuple[tuple[str, str], ...] = (
    (
        "O",
        "Every checkpoint reads the same probe tokens, teacher-forced. The first token and special "
        "tokens are left out.",
    ),
    (
        "O",
        "Depth band: mean over the blocks from 50 to 85 % of the depth (for ranks the mean of "
        "logarithms). It was fixed before any outcome was seen.",
    ),
    (
        "O",
        "Conventions: rms divides each token by its root mean square, raw does not, last takes the last "
        "token of each sequence at the final norm. All are centred, except anisotropy.",
    ),
    (
        "N",
        "Intervals are 95 %, from a delete-one-block jackknife over blocks of whole sequences, and "
        "centred on the bias-corrected value: an uncorrected value may lie outside its interval. Ranks "
        "are handled on the logarithmic scale.",
    ),
    (
        "N",
        "A change is a paired difference over the same blocks, never a difference of two intervals: the "
        "intervals of two levels may overlap although their change is well known.",
    ),
    (
        "S",
        "Intervals are over probe sequences for fixed checkpoints; they say nothing about training seeds.",
    ),
    (
        "N",
        "Null value: what the metric would read on isotropic Gaussian rows of the same number and "
        "dimension. Tokens of one sequence depend on each other, so real nulls of ranks are a little "
        "lower.",
    ),
    (
        "O",
        "Tests are two-sided. Whether concentration does harm is a question for the outcomes, not for the metric.",
    ),
    (
        "O",
        "Intervals of outcomes are over items (questions, held-out texts).",
    ),
    (
        "O",
        "Plasticity: a fresh adapter learns a future task that is in no stage, with the same start, "
        "batches and number of steps from every checkpoint. AULC is the mean held-out loss on the way. Of several "
        "learning rates headlines have the middle one, the lower of two: the best rate is picked by noise too.",
    ),
    (
        "O",
        "Controls: a stage at a learning rate of zero shows the instrument's own noise; an update with the stage's "
        "singular values in random directions (Haar), from the same start, what its size alone does.",
    ),
)
