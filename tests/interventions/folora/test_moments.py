from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.interventions.folora.counting import Counted, counted
from limberlm.interventions.folora.moments import Moment, Reading, second_moments
from limberlm.interventions.folora.sharing import shared_inputs
from tests.interventions.folora.models import DOWN, GATE, OUT, Q, brute, gpt2, inputs_of, llama, texts

NAMES = (Q, OUT, GATE, DOWN)
WIDTHS = {Q: 16, OUT: 16, GATE: 16, DOWN: 24}
MODEL = llama()


def padded(some: Sequence[Sequence[int]], side: str = "right", pad: int = 0) -> dict[str, Tensor]:
    length = max(map(len, some))
    spare = [[pad] * (length - len(ids)) for ids in some]
    put = (lambda ids, p: p + list(ids)) if side == "left" else (lambda ids, p: list(ids) + p)
    ids = torch.tensor([put(each, p) for each, p in zip(some, spare, strict=True)])
    mask = torch.tensor([put([1] * len(each), [0] * len(p)) for each, p in zip(some, spare, strict=True)])
    return {"input_ids": ids, "attention_mask": mask}


def moments(
    model: Any, batches: Sequence[dict[str, Tensor]], names: Sequence[str] = NAMES, **kwargs: Any
) -> dict[str, Moment]:
    def run(reading: Reading) -> None:
        for batch in batches:
            model(**batch)

    modules = {name: model.get_submodule(name) for name in names}
    return second_moments(model, modules, {name: WIDTHS[name] for name in names}, run, what="proxy", **kwargs)


def same(found: dict[str, Moment], wanted: dict[str, Tensor], relative: float = 1e-12) -> bool:
    return all(
        float((found[name].mean - wanted[name]).abs().max()) <= relative * float(wanted[name].trace())
        for name in wanted
    )


@given(
    seed=st.integers(0, 100),
    size=st.integers(1, 7),
    side=st.sampled_from(["left", "right"]),
    skip=st.sampled_from([(), (0,), (1, 4)]),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=15, deadline=None)
def test_neither_batches_nor_order_nor_padding_enter(
    seed: int, size: int, side: str, skip: tuple[int, ...], order: random.Random
) -> None:
    some = texts(seed=seed)
    shuffled = order.sample(some, len(some))
    batches = [padded(shuffled[i : i + size], side) for i in range(0, len(some), size)]
    if side == "left":
        for batch in batches:  # as generation gives them
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    found = moments(MODEL, batches, skip_positions=skip)
    assert same(found, brute(MODEL, NAMES, some, skip))
    tokens = sum(len([i for i in range(len(ids)) if i not in skip]) for ids in some)
    assert {moment.tokens for moment in found.values()} == {tokens}
    assert {moment.texts for moment in found.values()} == {len(some)}


def test_left_padding_needs_no_position_ids_to_know_position_0() -> None:
    some = texts()
    plain = moments(MODEL, [padded(some, "right")], skip_positions=(0,))
    left = moments(MODEL, [padded(some, "left")], skip_positions=(0,))
    assert same(left, {name: moment.mean for name, moment in plain.items()}, relative=1e-9)  # float32 rotations


def test_the_share_of_position_0_is_its_part_of_the_trace() -> None:
    some = texts()
    found = moments(MODEL, [padded(some[:5]), padded(some[5:])])
    for name in NAMES:
        X = [inputs_of(MODEL, [name], ids)[name] for ids in some]
        wanted = sum(float(x[0].square().sum()) for x in X) / sum(float(x.square().sum()) for x in X)
        assert found[name].first_share == pytest.approx(wanted, rel=1e-10)
    assert moments(MODEL, [padded(some)], skip_positions=(0,))[Q].first_share == 0


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_layers_may_be_read_in_turns(layers: int) -> None:
    names = [*NAMES, *(name.replace("layers.0", "layers.1") for name in NAMES)]
    model, calls = llama(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))

    def run(reading: Reading) -> None:
        model(**padded(texts()))

    modules = {name: model.get_submodule(name) for name in names}
    widths = {name: 24 if "down" in name else 16 for name in names}
    found = second_moments(model, modules, widths, run, what="proxy", layers_per_pass=layers)
    assert list(found) == names
    assert same(found, brute(MODEL, names, texts()))
    assert len(calls) == -(-2 // layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_taken_in_float32(dtype: torch.dtype) -> None:
    model, some = llama(dtype), texts(count=40)
    found = moments(model, [padded([ids]) for ids in some])
    assert {moment.mean.dtype for moment in found.values()} == {torch.float32}
    assert same(found, brute(model, NAMES, some), relative=3e-7)


@pytest.mark.parametrize("labelled", [True, False])
def test_tokens_with_a_label_alone_are_counted_if_asked_for(labelled: bool) -> None:
    some = texts()
    batch = padded(some)
    batch["labels"] = batch["input_ids"].where(torch.arange(batch["input_ids"].shape[1]) > 1, -100)
    found = moments(MODEL, [batch], labelled=labelled)
    assert same(found, brute(MODEL, NAMES, some, (0, 1) if labelled else ()))


def test_a_packed_batch_has_a_position_0_for_each_document() -> None:
    packed = torch.tensor([[5, 6, 7, 8, 9, 10]])
    positions = torch.tensor([[0, 1, 0, 1, 2, 3]])
    found = counted({"input_ids": packed, "position_ids": positions}, (1,))
    assert found.index.tolist() == [0, 2, 4, 5]
    assert found.first.tolist() == [0, 2]


def test_projections_that_read_one_tensor_share_an_input_and_others_do_not() -> None:
    inner = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
    )
    names = [f"model.layers.{i}.{name}" for i in (0, 1) for name in (*inner, "mlp.down_proj")]
    found = shared_inputs(MODEL, {name: MODEL.get_submodule(name) for name in names})
    assert list(found) == names
    for i in (0, 1):
        at = f"model.layers.{i}."
        first = ["self_attn.q_proj"] * 3 + ["self_attn.o_proj"] + ["mlp.gate_proj"] * 2 + ["mlp.down_proj"]
        assert [found[name] for name in names[7 * i : 7 * i + 7]] == [at + name for name in first]
    means = brute(MODEL, names, texts())
    assert all(torch.equal(means[name], means[shared]) for name, shared in found.items())


def test_inputs_that_are_0_for_the_moment_are_not_one() -> None:
    model = llama()
    with torch.no_grad():
        for name in (GATE, GATE.replace("0", "1")):
            model.get_submodule(name).weight.zero_()  # silu(0) * up: down_proj reads zeros in both blocks
    names = [DOWN, DOWN.replace("0", "1")]
    assert shared_inputs(model, {name: model.get_submodule(name) for name in names}) == dict(
        zip(names, names, strict=True)
    )
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.zero_()
    both = [Q, Q.replace("q_proj", "k_proj")]  # one object, though it is 0
    assert shared_inputs(model, {name: model.get_submodule(name) for name in both}) == dict.fromkeys(both, Q)


def test_conv1d_projections_are_read_too() -> None:
    model, some = gpt2(), texts()
    name = "transformer.h.0.mlp.c_proj"
    modules = {name: model.get_submodule(name)}
    found = second_moments(model, modules, {name: 64}, lambda _: model(**padded(some)) and None, what="proxy")
    assert same(found, brute(model, [name], some))


class Stop(Exception):
    pass


def _fails(model: nn.Module, reading: Reading) -> None:
    model(**padded(texts()))
    torch.rand(3), random.random(), np.random.rand()
    raise Stop


def _bad(model: nn.Module, reading: Reading) -> None:
    model(input_ids=torch.tensor([[3, 0, 0]]))


@pytest.mark.parametrize("run", [None, _fails, _bad])
def test_the_model_is_left_as_it_was_found(run: Callable[[nn.Module, Reading], None] | None) -> None:
    model = llama()
    model.train()
    model.model.layers[1].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    modules = {name: model.get_submodule(name) for name in NAMES}
    read = run or (lambda model, reading: model(**padded(texts())) and None)
    try:
        second_moments(model, modules, WIDTHS, lambda reading: read(model, reading), what="proxy")
    except (Stop, UserError):
        assert run is not None
    else:
        assert run is None
    shared_inputs(model, modules)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == random_states[1:]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_dropout_does_not_enter() -> None:
    model, some = llama(), texts()
    model.train()
    assert same(moments(model, [padded(some)]), brute(MODEL, NAMES, some))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_entry_that_is_not_finite_is_refused_with_its_module_batch_and_count(value: float) -> None:
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[7, 3] = value
    batches = [padded([[2, 3, 4]]), padded([[5, 6, 7]]), padded([[5, 6, 7]])]
    with pytest.raises(UserError, match=rf"^{Q}: \d+ NaN or infinite entries in its input at batch 2; load") as raised:
        moments(model, batches)
    bad = inputs_of(model, [Q], [5, 6, 7])[Q].isfinite().logical_not().sum()
    assert f"{Q}: {int(bad)} NaN" in str(raised.value)


def test_what_padding_computes_does_not_matter() -> None:
    model = llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = 1e4
    assert same(moments(model, [padded(texts())]), brute(MODEL, NAMES, texts()))


def test_a_module_that_is_not_called_is_refused() -> None:
    model = llama()
    model.idle = nn.Linear(16, 16)
    modules = {Q: model.get_submodule(Q), "idle": model.idle}
    with pytest.raises(UserError, match=r"^idle: no token of the task reached it; leave it out of target_modules"):
        second_moments(model, modules, {Q: 16, "idle": 16}, lambda _: model(**padded(texts())) and None, what="task")


@pytest.mark.parametrize("before", [0, 1])
def test_a_module_run_without_its_model_is_refused(before: int) -> None:
    def run(reading: Reading) -> None:
        for _ in range(before):
            MODEL(torch.tensor([[3]]))
        MODEL.model(torch.tensor([[3]]))

    with pytest.raises(UserError, match=rf"^{Q}: run without the model around it"):
        second_moments(MODEL, {Q: MODEL.get_submodule(Q)}, {Q: 16}, run, what="proxy")


@pytest.mark.parametrize("ids", [[[3, 4, 0, 0]], [[0, 0, 3, 4]], [[3, 4, 5, 6], [3, 4, 0, 0]]])
def test_padding_without_a_mask_is_refused(ids: list[list[int]]) -> None:
    with pytest.raises(UserError, match=r"^attention_mask: none was given, and texts start or end with the padding"):
        moments(MODEL, [{"input_ids": torch.tensor(ids)}])


@pytest.mark.parametrize("ids", [[[3, 4, 5, 0]], [[3, 0, 0, 5]], [[0, 5, 6, 7]]])
def test_a_single_end_token_is_no_padding(ids: list[list[int]]) -> None:
    assert moments(MODEL, [{"input_ids": torch.tensor(ids)}])[Q].tokens == 4


def test_a_mask_that_is_not_one_entry_for_each_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"^attention_mask: \[1, 1, 3, 3\] for \[1, 3\] tokens"):
        counted({"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 1, 3, 3)}, ())


def test_routed_rows_are_counted_only_where_no_token_is_left_out() -> None:
    states = torch.randn(4, 8)
    whole = Counted((2, 3), torch.arange(6), torch.tensor([0, 3]), 2)
    some = Counted((2, 3), torch.arange(5), torch.tensor([0, 3]), 2)
    taken, first = whole.rows(states, "layers.0.experts.1.w1")
    assert torch.equal(taken, states)
    assert len(first) == 0
    with pytest.raises(UserError, match=r"^layers.0.experts.1.w1: reads \[4, 8\] of \[2, 3\] tokens"):
        some.rows(states, "layers.0.experts.1.w1")
    with pytest.raises(UserError, match="experts"):
        some.rows(torch.randn(6, 8), "layers.0.experts.1.w1")
    flat = torch.randn(6, 8)
    assert torch.equal(some.rows(flat, "layers.0.fc1")[0], flat[:5])
