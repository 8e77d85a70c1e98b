"""Replay: an exact share of a stage's tokens comes from what the model knew before, at the same number of tokens.

`replay.py` makes a training set for a script of one's own, `stage.py` the rows of a study's stage. Which rows, in which
order, is decided in `mix.py` from their lengths alone; `rendering.py` counts the tokens that TRL's trainers will read;
`pools.py` and `sampling.py` say where replayed rows come from.
"""
