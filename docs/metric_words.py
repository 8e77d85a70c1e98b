"""What the fields of a metric's record are called on its page."""

from __future__ import annotations

FAMILIES = {
    "spectrum": "How many directions the states use, and how unevenly.",
    "isotropy": "Whether states point the same way.",
    "tokens": "Outsize tokens, which can decide everything else.",
    "dimension": "How many directions the states use locally, along curved surfaces too.",
    "domains": "Whether states still tell apart the kinds of text they come from.",
    "logits": "How sure the model is, and how many directions its head can see.",
    "trajectories": "How states move from token to token, and tokens from block to block.",
    "units": "Hidden units that hardly ever fire, or say the same as another.",
    "similarity": "How much of a reference checkpoint is left, on the same tokens.",
    "updates": "What a stage changed in the weights, and how two stages' changes lie to each other. No text is read.",
}

NEEDS = {
    "spectrum": "the eigenvalues of the covariance, from running sums of the states and their products",
    "moments": "running sums of the states and their products",
    "blocks": "the same sums by jackknife block: only products between different blocks enter",
    "directions": "the sum of unit directions of each jackknife block",
    "centred": "the reservoir of 2,048 tokens, and the mean of all",
    "norms": "the norms of the token sample (16,384), and the largest tokens",
    "neighbours": "the nearest neighbours of each token in the reservoir of 2,048",
    "pairs": "a kernel between pairs of the reservoir's tokens (2,048), or of windows (256 texts)",
    "domains": "sums of the states and their squared norms by domain; texts of two domains",
    "pooled": "one mean state for each of up to 1,024 texts; texts of two domains",
    "tokens": "one number per token of the token sample (16,384)",
    "sequences": "one number for each of up to 1,024 texts",
    "units": "the mean size of each hidden unit's activation, over all tokens",
    "activations": "the hidden units' activations on 512 tokens of the reservoir",
    "cross": "a reference checkpoint that reads the same tokens in the same pass; sums by jackknife block",
    "cross_moments": "a reference checkpoint that reads the same tokens in the same pass",
    "subspaces": "a reference checkpoint; the leading eigenvectors of both covariances",
    "distances": "a reference checkpoint; 512 tokens of the reservoir in both",
    "update": "the adapter, or two full checkpoints",
    "updates": "two adapters, or three full checkpoints",
}
REFERENCE = ("cross", "cross_moments", "subspaces", "distances")

SITES = {
    "hidden": "every site: `embed`, each `block.i`, `final_norm`, and their mean over the depth band, `band`",
    "blocks": "after every block, and their mean over the depth band, `band`",
    "final_norm": "`final_norm` only",
    "logits": "`logits`",
}
DIRECTIONS = {
    "down": "falls",
    "up": "rises",
    "drift": "no direction of its own: it says how far, not which way",
}
WAYS = {"down": "falls", "up": "rises", "drift": "says how far only"}
NOTHING = {
    "domains": "labels that mean nothing",
    "trajectories": "independent states",
    "units": "units that are independent and fire alike",
    "similarity": "unrelated states",
}
STATES, PREDICTIONS = "independent states that use every direction alike", "every token equally likely"
