"""Named sets of conventions, so that a number can be set beside a published one."""

from __future__ import annotations

from dataclasses import dataclass

from limberlm.observe.names import LAST, RAW, RMS

TOKEN_FILTER = ("drop_first", "drop_special")


@dataclass(frozen=True)
class Preset:
    """What a preset reads and reports.

    Attributes:
        name: for `--preset`.
        title: in words, with the paper.
        evidence: how much of it the source states, and what is our reading.
        conventions: of the states.
        metrics: names; empty for those of the suite.
        token_filter: which tokens are left out of every statistic; none for all of them.
        final_only: whether only `final_norm` is read.
    """

    name: str
    title: str
    evidence: str
    conventions: tuple[str, ...] = (RMS, RAW, LAST)
    metrics: tuple[str, ...] = ()
    token_filter: tuple[str, ...] = TOKEN_FILTER
    final_only: bool = False


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("robust", "RMS-normalised states, debiased, with block intervals", "our choice; the default"),
        Preset(
            "paper_3_1",
            "2605.30524, section 3.1: residual stream, all tokens, centred, eigenvalues, divided by d",
            "formulas by one reader's audit; hook point and token filter are our reading",
            conventions=(RAW,),
            metrics=(
                "effective_rank",
                "effective_rank_normalised",
                "participation_ratio",
                "variance_share_1",
                "variance_share_8",
                "variance_share_32",
                "anisotropy",
                "anisotropy_centred",
                "cka_uncentred",
                "cka_biased",
            ),
            token_filter=(),
        ),
        Preset(
            "paper_3_1_sigma",
            "the same with singular values at the final norm",
            "our hypothesis for the published level of 2605.30524",
            conventions=(RAW,),
            metrics=("rankme", "rank_sigma_normalised"),
            token_filter=(),
            final_only=True,
        ),
        Preset(
            "rankme_lasttoken",
            "2509.23024: last token at the final norm, centred, entropy of eigenvalues; alpha on ranks 12-100",
            "the paper's text and code",
            conventions=(LAST,),
            metrics=("effective_rank", "alpha_req"),
            final_only=True,
        ),
        Preset(
            "rankme_garrido",
            "RankMe of 2210.02885: singular values, uncentred, 1e-7 added to each share",
            "standard; the original reads 25,600 samples, one state each, which we take to be the last token's",
            conventions=(LAST,),
            metrics=("rankme_garrido",),
            final_only=True,
        ),
        Preset(
            "tracing_release",
            "the released code of 2509.23024: at most 2048 eigenvalues, 1e-7 added to each share",
            "read in the code",
            conventions=(LAST,),
            metrics=("rank_tracing_release",),
            final_only=True,
        ),
        Preset(
            "diff_erank",
            "2401.17139: per sequence, centred unit rows, exponential of the mean entropy",
            "read in the code; the window of 64 tokens is our choice",
            conventions=(RAW,),
            metrics=("diff_erank",),
            final_only=True,
        ),
        Preset(
            "logit_weighted",
            "what the unembedding can see of each site",
            "our choice",
            conventions=(RMS, RAW),
            metrics=(
                "logit_effective_rank",
                "logit_participation_ratio",
                "logit_participation_ratio_debiased",
                "output_weighted_rank",
            ),
        ),
    )
}
"""Every preset by name, the default first."""
