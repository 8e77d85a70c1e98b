from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Directions
from limberlm.geometry.averages import mean
from limberlm.geometry.catalog import trajectories as catalog
from limberlm.geometry.catalog.record import Counts
from limberlm.geometry.trajectories import (
    NULL_CURVATURE,
    NULL_VELOCITY,
    WINDOW,
    curvature,
    depth_path,
    layer_alignment,
    layer_velocity,
    mean_unit_step,
    null_depth_path,
    null_straightness,
    straightness,
    trajectory_values,
    velocity,
)
from tests.geometry.clouds import normal, rotation

RECORDS = {record.name: record for record in catalog.METRICS}
FUNCTIONS = {
    "curvature": curvature,
    "straightness": straightness,
    "velocity": velocity,
    "mean_unit_step": mean_unit_step,
}


def by_hand(window: Tensor) -> dict[str, float | list[float]]:
    """Step by step, in Python's own numbers; steps of length zero are left out."""
    states = window.tolist()
    steps = [[b - a for a, b in zip(x, y, strict=True)] for x, y in itertools.pairwise(states)]
    lengths = [math.hypot(*step) for step in steps]
    units = [[v / length for v in step] for step, length in zip(steps, lengths, strict=True) if length]
    angles = [
        math.degrees(math.acos(max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(u, v, strict=True))))))
        for u, v in itertools.pairwise(units)
    ]
    return {
        "curvature": math.fsum(angles) / len(angles),
        "straightness": math.dist(states[-1], states[0]) / math.fsum(lengths),
        "velocity": statistics.median(lengths) / statistics.median(math.hypot(*x) for x in states),
        "mean_unit_step": [math.fsum(column) / len(units) for column in zip(*units, strict=True)],
    }


def assert_by_hand(windows: Tensor) -> None:
    together = trajectory_values(windows)
    assert set(together) == set(FUNCTIONS)
    for name, function in FUNCTIONS.items():
        expected = torch.tensor([by_hand(window)[name] for window in windows], dtype=torch.float64)
        torch.testing.assert_close(function(windows), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together[name], function(windows), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("points", "d"), [(64, 16), (65, 3), (4, 2), (3, 40)])
def test_values_equal_loops_over_the_steps(points: int, d: int) -> None:
    assert_by_hand(normal(5, points, d, seed=points) + 0.5)


def test_a_repeated_state_is_no_step() -> None:
    windows = normal(6, 20, 4, seed=0)
    windows[0, 7] = windows[0, 6]  # inside
    windows[1, :4] = windows[1, 0]  # at the start
    windows[2, 15:] = windows[2, 15]  # at the end
    windows[3, 5:9] = windows[3, 5]
    windows[3, 12] = windows[3, 11]
    assert_by_hand(windows)
    path = normal(1, 9, 4, seed=1)
    stuttering = path.repeat_interleave(torch.arange(9) % 3 + 1, dim=1)
    for function in (curvature, straightness, mean_unit_step):
        torch.testing.assert_close(function(stuttering), function(path), rtol=1e-13, atol=1e-13)


def test_a_sequence_without_a_value_is_nan_and_alone() -> None:
    windows = normal(5, 10, 3, seed=2)
    windows[1] = 0.0  # nothing moves, nothing has a norm
    windows[2] = windows[2, 0]  # nothing moves
    windows[3, 5:] = windows[3, 0]  # one step there, one back
    windows[3, :5] = windows[3, 4]
    values = trajectory_values(windows)
    missing = {name: value.reshape(5, -1).isnan().any(1).tolist() for name, value in values.items()}
    assert missing["curvature"] == [False, True, True, True, False]
    assert missing["straightness"] == missing["mean_unit_step"] == [False, True, True, False, False]
    assert missing["velocity"] == [False, True, False, False, False]
    assert values["velocity"][2] == 0
    others = trajectory_values(windows[[0, 4]])
    for name, value in values.items():
        torch.testing.assert_close(value[[0, 4]], others[name], rtol=1e-14, atol=1e-14)
    windows[0, 3, 1] = math.nan
    assert trajectory_values(windows)["curvature"][0].isnan()


def test_windows_of_another_shape_are_refused() -> None:
    for shape in ((64, 8), (2, 1, 8)):
        for function in FUNCTIONS.values():
            with pytest.raises(ValueError, match="windows are"):
                function(torch.zeros(shape))


def turning(angle: float, points: int = 12, dtype: torch.dtype = torch.float32) -> Tensor:
    """Steps in a plane, each turned by `angle` radians from the one before; begins at 0."""
    directions = angle * torch.arange(points - 1, dtype=torch.float64)
    steps = torch.stack([directions.cos(), directions.sin()], 1)
    return torch.cat([torch.zeros(1, 2), steps.cumsum(0)]).to(dtype)[None]


def test_small_angles_are_told_apart_where_arccos_returns_zero() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(1e-4), math.sin(1e-4)])
    assert torch.arccos((first * second).sum()).item() == 0.0
    corner = torch.stack([torch.zeros(2), first, first + second])[None]
    assert math.radians(curvature(corner).item()) == pytest.approx(1e-4, rel=1e-3)
    back = torch.stack([torch.zeros(2), first, first - second])[None].double()
    back[0, 2] = first - torch.tensor([math.cos(1e-4), math.sin(1e-4)], dtype=torch.float64)
    assert math.radians(180 - curvature(back).item()) == pytest.approx(1e-4, rel=1e-8)
    assert curvature(turning(1e-4, dtype=torch.float64)).item() == pytest.approx(math.degrees(1e-4), rel=1e-10)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 135.0, 180.0])
def test_a_path_that_always_turns_alike_has_that_curvature(degrees: float) -> None:
    assert curvature(turning(math.radians(degrees))).item() == pytest.approx(degrees, abs=1e-3)


def test_a_straight_line_is_straight_and_a_loop_is_not() -> None:
    line = torch.outer(torch.linspace(0, 1, 64, dtype=torch.float64), normal(8, seed=3))[None]
    assert straightness(line).item() == pytest.approx(1.0, abs=1e-12)
    assert mean_unit_step(line).norm().item() == pytest.approx(1.0, abs=1e-12)
    loop = turning(2 * math.pi / 11, dtype=torch.float64)
    assert straightness(loop).item() == pytest.approx(0.0, abs=1e-12)
    assert mean_unit_step(loop).norm().item() == pytest.approx(0.0, abs=1e-12)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_rotation_scale_and_translation_do_not_matter_where_stated(seed: int, scale: float, offset: float) -> None:
    windows, turn = normal(3, 12, 5, seed=seed), rotation(5, seed)
    before, turned, moved = (trajectory_values(x) for x in (windows, scale * windows @ turn, windows + offset))
    for name in ("curvature", "straightness", "velocity"):
        torch.testing.assert_close(turned[name], before[name], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(turned["mean_unit_step"], before["mean_unit_step"] @ turn, rtol=1e-10, atol=1e-10)
    for name in ("curvature", "straightness", "mean_unit_step"):
        torch.testing.assert_close(moved[name], before[name], rtol=1e-10, atol=1e-10)


def test_float32_and_shorter_types_agree_with_float64() -> None:
    windows = normal(8, 64, 256, seed=4)
    double = trajectory_values(windows)
    for name, value in trajectory_values(windows.float()).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), double[name], rtol=2e-6, atol=2e-6)
    short = windows.bfloat16()
    assert torch.equal(curvature(short), curvature(short.float()))


# --- nulls, d = 256


def test_independent_states_and_random_walks_read_the_nulls() -> None:
    independent = normal(300, 65, 256, seed=5).float()
    walk = normal(300, 65, 256, seed=6).cumsum(1).float()
    assert mean(curvature(independent)).item() == pytest.approx(120, abs=0.3)
    assert mean(curvature(walk)).item() == pytest.approx(90, abs=0.3)
    assert mean(straightness(independent)).item() == pytest.approx(0.0156, abs=0.001)
    assert mean(straightness(walk)).item() == pytest.approx(0.125, abs=0.001)
    assert mean(velocity(independent)).item() == pytest.approx(math.sqrt(2), abs=0.005)
    assert (NULL_CURVATURE, null_straightness(65), NULL_VELOCITY) == (120, 1 / 64, math.sqrt(2))


def test_independent_updates_read_the_nulls() -> None:
    updates = normal(12, 2000, 256, seed=7)
    states = updates.cumsum(0)
    path = depth_path(updates.norm(dim=2).sum(0), states[-1].norm(dim=1))
    assert mean(path).item() == pytest.approx(3.46, abs=0.03)
    assert null_depth_path(12) == pytest.approx(3.46, abs=0.005)
    assert mean(layer_alignment(updates[0], updates[1])).item() == pytest.approx(0.0, abs=0.005)


def test_the_null_values_of_the_catalog_are_those_of_its_window() -> None:
    counts = Counts(rows=1000, width=64, updates=9)
    nulls = {name: record.null(counts) for name, record in RECORDS.items() if record.null}
    assert nulls["straightness"] == 1 / (WINDOW - 1)
    assert (nulls["curvature"], nulls["velocity"], nulls["depth_path"]) == (120, math.sqrt(2), 3)


# --- depth


def test_depth_values_equal_loops_over_tokens_and_blocks() -> None:
    states = normal(5, 30, 7, seed=8) + 1  # four blocks
    for before, after in itertools.pairwise(states):
        expected = [math.dist(a, b) / math.hypot(*a) for a, b in zip(before.tolist(), after.tolist(), strict=True)]
        assert layer_velocity(before, after).tolist() == pytest.approx(expected, rel=1e-12)
    updates = states[1:] - states[:-1]
    for first, second in itertools.pairwise(updates):
        expected = torch.nn.functional.cosine_similarity(first, second)
        torch.testing.assert_close(layer_alignment(first, second), expected, rtol=1e-12, atol=1e-12)
    expected = [
        math.fsum(math.dist(a, b) for a, b in itertools.pairwise(token)) / math.dist(token[0], token[-1])
        for token in states.transpose(0, 1).tolist()
    ]
    found = depth_path(updates.norm(dim=2).sum(0), (states[-1] - states[0]).norm(dim=1))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert (found >= 1).all()


def test_updates_of_one_direction_are_aligned_and_straight() -> None:
    direction = normal(10, 6, seed=9)
    assert layer_alignment(direction, 3 * direction).tolist() == pytest.approx([1.0] * 10)
    assert layer_alignment(direction, -direction).tolist() == pytest.approx([-1.0] * 10)
    length = direction.norm(dim=1)
    assert depth_path(length + 3 * length, (4 * direction).norm(dim=1)).tolist() == pytest.approx([1.0] * 10)


def test_a_token_without_a_value_is_nan_and_alone() -> None:
    before, after = normal(4, 3, seed=10), normal(4, 3, seed=11)
    before[1], after[2] = 0.0, 0.0
    assert layer_velocity(before, after).isnan().tolist() == [False, True, False, False]
    assert layer_alignment(before, after).isnan().tolist() == [False, True, True, False]
    assert depth_path(torch.ones(2), torch.tensor([0.0, 1.0])).isnan().tolist() == [True, False]


# --- homogeneity


def test_homogeneity_is_the_mean_cosine_of_mean_unit_steps_of_different_blocks() -> None:
    windows = normal(12, 20, 5, seed=12) + torch.linspace(0, 6, 20, dtype=torch.float64)[:, None]
    windows[3] = windows[3, 0]  # a sequence that does not move has no direction
    steps, block = mean_unit_step(windows), torch.arange(12) % 4
    sums = []
    for b in range(4):
        sums.append(Directions.zeros(5))
        sums[-1].update(steps[block == b])
    assert sum(directions.count for directions in sums) == 11
    moving = [i for i in range(12) if i != 3]
    cosines = [
        torch.nn.functional.cosine_similarity(steps[i], steps[j], dim=0).item()
        for i in moving
        for j in moving
        if block[i] != block[j]
    ]
    found = RECORDS["trajectory_homogeneity"].compute(sums).item()
    assert found == pytest.approx(statistics.fmean(cosines), rel=1e-12)
    assert found > 0.5
