"""What a checkpoint can do, as rows of one table: a value, its interval over items, and the items themselves.

The way of the data: `samples` are drawn from the testbed, `encoding` makes tokens of them, `scoring` asks the model,
and `table` makes the row. On these four stand the outcomes of one checkpoint (`retention`, `ood`, `refusals`,
`choices`, `calibration`, `diversity`, `plasticity`, `memorization`, `ablation`, `lm_eval`; `ood_distance` says how far
a shift is, in the base), and what several checkpoints make together (`win_rate`, `score_matrix`).
"""
