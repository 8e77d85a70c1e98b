"""Replay: an exact share of a stage's tokens comes from what the model knew before, at the same number of tokens.

`replay` makes a training set for a script of one's own; `stage_rows` does it for a stage of a study. Which rows, in
which order, is decided in `mix.py` from their lengths alone; `rendering.py` counts the tokens that TRL's trainers will
read; `pools.py` and `sampling.py` say where replayed rows come from.
"""

from limberlm.interventions.replay.replay import replay
from limberlm.interventions.replay.sampling import sample_texts
from limberlm.interventions.replay.settings import ReplaySettings

__all__ = ["ReplaySettings", "replay", "sample_texts"]
