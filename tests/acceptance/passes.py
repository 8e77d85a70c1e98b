"""The pass: what must not matter to it, and reasons instead of silent NaN; invariances and other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model

from limberlm.geometry import BlockProducts, mean_cosine, participation_ratio_debiased
from limberlm.geometry.dimension import mle_dimension, twonn
from limberlm.geometry.low_rank import Factored
from limberlm.geometry.pairs import uniformity
from limberlm.observe import Geometry, ProbeSequence, ProbeSet, locate, measure
from limberlm.observe.forward.observation import observe
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.summary import rows_of, summarise
from limberlm.observe.model.head import locate_head
from limberlm.observe.table.geometry import frame_of
from tests.acceptance import spectra
from tests.acceptance.table import Got, Row, both, tiny
from tests.geometry.clouds import blocks, normal, power_law, rotation
from tests.geometry.test_dimension import of as neighbours
from tests.geometry.test_isotropy import by_block
from tests.geometry.test_low_rank import factored
from tests.geometry.test_pairs import alone
from tests.observe.tiny import mixed_probe
from tests.observe.tiny import tiny as small_model


def _table(**options: object) -> pd.DataFrame:
    model = small_model(max_position_embeddings=128)
    sites = locate(model)
    asked = Request.of()
    seen = observe(model, sites, sites.names(), mixed_probe(), request=asked, head=locate_head(model, sites), **options)
    return frame_of([row for cell in summarise(seen) for row in rows_of(cell)])


def padded() -> Got:
    base = _table(batch_size=16)["value"].to_numpy()
    errors = []
    for options in ({"batch_size": 1}, {"batch_size": 5, "padding_side": "left"}):
        other = _table(**options)["value"].to_numpy()
        errors.append(np.nanmax(np.abs(other - base) / (1 + np.abs(base))))
    return tiny(float(max(errors)), 1e-6, "largest relative difference of a value")


def shared() -> Got:
    """Real processes, over gloo."""
    numbers = differ = 0
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "tests.observe.together.world", out, "core", "few"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment)
        for case, sizes in (("core", (2, 3, 4)), ("few", (4,))):
            one = Geometry.load(Path(out, case, "1.0.geometry"))
            for several in (Geometry.load(Path(out, case, f"{size}.0.geometry")) for size in sizes):
                mine, theirs = (
                    [*np.ravel(found.table["replicates"].tolist()), *found.table["value"], *found.table["std_error"]]
                    for found in (several, one)
                )
                numbers += len(theirs)
                differ += int(np.sum(~np.isclose(mine, theirs, rtol=0, atol=0, equal_nan=True)))
                for name, tensor in one.statistics.items():
                    numbers += tensor.numel()
                    differ += int((several.statistics[name] != tensor).sum())
    return Got(f"{differ} of {numbers:,} numbers differ", differ == 0)


def unchanged() -> Got:
    probe = mixed_probe()
    model = small_model(max_position_embeddings=128)
    before = measure(model, probe).table
    fresh = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    after = measure(fresh, probe).table
    numbers = ["value", "std_error", "low", "high"]
    differ = int((~np.isclose(before[numbers], after[numbers], rtol=0, atol=0, equal_nan=True)).sum())
    return Got(f"{differ} of {before[numbers].size:,} numbers differ", differ == 0)


def told() -> Got:
    one = ProbeSet((ProbeSequence((5, 6), "text", (False, True)),), "one", 2)
    few = ProbeSet(mixed_probe().sequences[:4], "few", 76)
    silent = undefined = 0
    for probe in (one, few):
        geometry = measure(small_model(max_position_embeddings=128), probe, suite="full")
        table = geometry.table[~geometry.table["metric"].str.endswith("_corrected")]
        for row in table[table["value"].isna()].to_dict("records"):
            undefined += 1
            silent += f"{row['site']}/{row['convention']}/{row['metric']}" not in geometry.manifest["undefined"]
    return Got(f"{undefined} undefined values, {silent} without a reason", silent == 0)


def invariant() -> Got:
    rows = normal(200, 24, seed=0) * power_law(24, 1.0).sqrt() + 1
    where = torch.arange(200) % 16
    centred = (
        lambda x: participation_ratio_debiased(BlockProducts.of(blocks(x, 16))),
        lambda x: twonn(neighbours(x)),
        lambda x: mle_dimension(neighbours(x)),
    )
    turned = (lambda x: mean_cosine(by_block(x, where, 16)), lambda x: uniformity(alone(x)))
    errors = []
    for metric in centred:
        plain = metric(rows).item()
        errors += [abs(metric(x).item() / plain - 1) for x in (rows @ rotation(24, 2), 7 * rows, rows + 3)]
    for metric in turned:
        plain = metric(rows).item()
        errors += [abs(metric(x).item() / plain - 1) for x in (rows @ rotation(24, 2), 7 * rows)]
    update, mixing = factored(40, 30, 4), normal(4, 4, seed=3)
    moved = Factored(update.left @ torch.linalg.inv(mixing), mixing @ update.right, update.scale)
    errors.append(float((update.bases().values - moved.bases().values).abs().max() / update.bases().values[0]))
    return both(spectra.invariances(), tiny(max(errors), 1e-10, "others"))


ROWS = (
    Row(
        "padding side and amount, batch split and order: values of the core suite",
        "equal to 1e-6 (float32 forward)",
        (
            "observe/forward/test_observation.py::test_padding_side_and_batch_size_do_not_matter",
            "observe/forward/test_observation.py::test_neither_the_order_of_the_lines_nor_a_second_time_changes_a_bit",
        ),
        padded,
    ),
    Row(
        "stage of zero learning rate: a fresh adapter against its base, core suite",
        "every number equal bit for bit",
        (
            "observe/table/test_comparison.py::test_no_change_gives_zero_width_intervals_and_p_one",
            "observe/updates/test_measurement.py::test_a_zero_learning_rate_stage_changed_nothing_and_every_gap_has_its_reason",
        ),
        unchanged,
    ),
    Row(
        "one token, four texts: full suite",
        "a reason, never a silent NaN",
        (
            "observe/test_measurement.py::test_tiny_probes_give_numbers_or_reasons",
            "observe/test_measurement.py::test_one_token_is_undefined_everywhere_it_should_be",
            "observe/forward/test_observation.py::test_states_that_are_not_finite_are_refused_with_site_batch_and_sequence",
            "geometry/test_statistics.py::test_constant_rows_have_exactly_zero_covariance",
        ),
        told,
    ),
    Row(
        "a pass split over 2, 3 and 4 processes, and over 4 of which two have no data: table and statistics",
        "those of one, bit for bit",
        (
            "observe/together/test_together.py::test_several_processes_give_the_bits_of_one",
            "observe/together/test_together.py::test_a_process_without_blocks_still_summarises",
            "geometry/test_summing.py::"
            "test_all_reduce_sums_over_processes_about_the_first_ones_shift_also_where_it_has_no_rows",
        ),
        shared,
    ),
    Row(
        "invariances: rotation, positive scale, translation, row order, duplication (plug-in), LoRA gauge",
        "1e-10",
        (
            "geometry/test_spectrum.py::test_rotation_scale_translation_row_order_and_duplication_do_not_matter",
            "geometry/test_between_blocks.py::"
            "test_debiased_ratio_ignores_rotation_scale_translation_and_the_shift_of_each_block",
            "geometry/test_isotropy.py::test_rotation_row_scale_and_row_order_do_not_matter",
            "geometry/test_dimension.py::test_rotation_translation_scale_and_row_order_do_not_matter",
            "geometry/test_low_rank.py::test_the_gauge_changes_nothing",
        ),
        invariant,
    ),
)
