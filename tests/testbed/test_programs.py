"""Programs: Python works out the same cases, the shown ones leave one program, and the verifier knows equals."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import chain, islice

import pytest

from limberlm.testbed import SPLITS, Sample
from limberlm.testbed.programs import PROGRAMS, draw, families, judge, near_miss
from tests.testbed.expressions import worked

_RNG = random.Random("inputs")
NUMBERS = tuple(map(str, range(21)))
LISTS = tuple(" ".join(map(str, _RNG.choices(range(10), k=_RNG.randint(1, 6)))) for _ in range(300))


def family(shifted: bool) -> list[str]:
    return [program for forms in families(shifted) for form in forms.values() for program in form]


@cache
def behaviour(program: str, on_lists: bool) -> tuple[str | None, ...]:
    return tuple(worked(program, line) for line in (LISTS if on_lists else NUMBERS))


def equal(program: str, answer: str) -> bool:
    """Whether two programs do the same on every number of 0 to 20, or on 300 lists: Python's word, not the judge's."""
    return behaviour(program, "xs" in answer) == behaviour(answer, "xs" in answer)


def shown(sample: Sample) -> list[tuple[str, str]]:
    """The cases as a reader of the prompt sees them."""
    cases = [case.split(" -> ") for case in sample.prompt.removeprefix("Program: ").split(", ")]
    return [(one, other) for one, other in cases]


@cache
def drawn() -> dict[str, Sample]:
    """A sample of every program of the families."""
    rng, found = random.Random(1), {}
    for shifted in (False, True):
        missing = set(family(shifted))
        for _ in range(200_000):
            sample = draw(rng, shifted)
            found.setdefault(sample.answer, sample)
            missing.discard(sample.answer)
            if not missing:
                break
        assert not missing
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_ten_thousand_answers_verify_and_their_examples_are_as_python_works_them_out(split: str) -> None:
    for sample in islice(PROGRAMS.stream(split), 2500):
        assert PROGRAMS.verify(sample, sample.answer)
        assert all(worked(sample.answer, one) == other for one, other in shown(sample))


def test_the_cases_are_the_examples_and_hidden_ones_as_python_works_them_out() -> None:
    for program, sample in drawn().items():
        examples = shown(sample)
        assert list(sample.cases[: len(examples)]) == examples
        assert len(sample.cases) >= len(examples) + 10
        assert all(worked(program, one) == other for one, other in sample.cases)


WORDS = "x xs it 0 1 2 3 9 10 + - * mod ** ( ) , sum len max min first last sort rev repeat".split()


def mutated(rng: random.Random, answer: str) -> str:
    """The answer with one or two of its words replaced, dropped, doubled, swapped or added."""
    words = re.findall(r"\w+|\*\*|[^\w ]", answer)
    for _ in range(rng.choice((1, 1, 2))):
        place, other = rng.randrange(len(words) or 1), rng.choice(WORDS)
        change = rng.choice(("replace", "replace", "drop", "add", "swap", "nudge"))
        if change == "add" or not words:
            words.insert(place, other)
        elif change == "replace":
            words[place] = other
        elif change == "drop":
            del words[place]
        elif change == "swap":
            words[place - 1], words[place] = words[place], words[place - 1]
        elif words[place].isdigit():
            words[place] = str(int(words[place]) + rng.choice((-1, 1)))
    return " ".join(words)


def test_ten_thousand_mutated_answers_fail_and_those_that_pass_are_equal_by_python() -> None:
    rng = random.Random(2)
    failed = passed = 0
    stream = chain.from_iterable(zip(*(PROGRAMS.stream(split) for split in SPLITS), strict=True))
    for sample in stream:
        text = mutated(rng, sample.answer)
        if PROGRAMS.verify(sample, text):
            passed += 1
            assert equal(text, sample.answer), (sample, text)
        else:
            failed += 1
        if failed == 10_000:
            break
    assert passed > 100  # unchanged by a swap or a nudge, or equal in earnest


def test_the_verifier_takes_a_program_of_the_families_for_another_only_where_python_does() -> None:
    rng = random.Random(3)
    programs = family(False) + family(True)
    for answer, sample in drawn().items():
        for program in rng.sample(programs, 20):
            assert judge(sample, program) == equal(program, answer)


@pytest.mark.parametrize("shifted", [False, True])
def test_the_shown_cases_leave_one_program_of_both_families(shifted: bool) -> None:
    rng = random.Random(4)
    rivals = [*family(False), *family(True), "x", "xs", *map(str, range(-20, 100))]
    for _ in range(300):
        sample = draw(rng, shifted)
        left = rivals
        for one, other in shown(sample):
            left = [program for program in left if worked(program, one) == other]
        assert sample.answer in left
        # on lines of one number, programs on lists do the same in more words: first(xs) + 3 is x + 3
        assert all(equal(program, sample.answer) for program in left)
        assert [program for program in left if ("xs" in program) == ("xs" in sample.answer)] == [sample.answer]


def test_a_program_that_fits_the_shown_cases_only_is_wrong() -> None:
    for sample in drawn().values():
        seen = [one for one, _ in shown(sample)]
        if "xs" in sample.answer:
            totals = {sum(map(int, line.split())) for line in seen}
            overfit = sample.answer + " + " + _vanishing("sum(xs)", totals)
        else:
            overfit = sample.answer + " + " + _vanishing("x", set(map(int, seen)))
        assert all(worked(overfit, one) == other for one, other in shown(sample))
        assert not PROGRAMS.verify(sample, overfit)


def _vanishing(value: str, roots: set[int]) -> str:
    return " * ".join(f"({value} - {root})" for root in roots)


@pytest.mark.parametrize("form", ["({})", "0 + {}", "{} * 1", " {}\n", "loop(3, {}, it)", "{} - 0 * 7"])
def test_programs_that_say_the_same_in_other_words_are_right(form: str) -> None:
    loose = form == "{} * 1"  # binds tighter than the answer's own operators
    for sample in drawn().values():
        assert PROGRAMS.verify(sample, form.format(f"({sample.answer})" if loose else sample.answer))


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("2 * x + 5", "x + x + 5"),
        ("2 * x + 5", "5+x*2"),
        ("x + 3", "first(xs) + 3"),
        ("x * x", "x ** 2"),
        ("max(x, 4)", "last(sort(repeat(x, 1))) - min(x - 4, 0)"),
        ("x mod 7", "(x + 70) mod 7"),
        ("last(xs)", "first(rev(xs))"),
        ("min(xs)", "first(sort(xs))"),
        ("len(xs)", "sum(xs * 0 + 1)"),
        ("rev(xs)", "rev(rev(rev(xs)))"),
        ("xs - 3", "-(3 - xs)"),
        ("4 * xs", "xs * 2 * 2"),
    ],
)
def test_equal_programs_of_another_form_are_right(answer: str, same: str) -> None:
    assert equal(same, answer)
    assert PROGRAMS.verify(drawn()[answer], same)


BROKEN = (
    *("", " ", "x +", "x + 3 = 7", "7", "sum(x)", "xs + xs", "x mod 0", "2 ** -x", "it", "9 ** 9 ** 9 ** 9", "(" * 500),
    *("loop(10 ** 9, x, it)", "repeat(x, 10 ** 9)", "__import__('os')", "x²", "\ud800", "Program: 1 -> 2"),
)


@pytest.mark.parametrize("text", BROKEN, ids=ascii)
def test_a_program_without_a_value_is_wrong_and_never_an_error(text: str) -> None:
    assert not any(PROGRAMS.verify(sample, text) for sample in islice(drawn().values(), 0, None, 20))


def test_a_sample_without_cases_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="needs its cases"):
        PROGRAMS.verify(Sample("Program: 1 -> 2", "x + 1"), "x + 1")


def constants(program: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", program)]


def test_the_shift_is_in_the_constants_and_the_numbers() -> None:
    for split, largest, highest in (("train", 9, 9), ("out_of_domain", 19, 20)):
        samples = list(islice(PROGRAMS.stream(split), 3000))
        assert max(max(constants(s.answer), default=0) for s in samples) == largest
        assert max(int(n) for s in samples for one, _ in shown(s) for n in one.split()) == highest
    assert min(max(constants(s.answer)) for s in samples) == 10
    assert set(family(False)).isdisjoint(family(True))


@pytest.mark.parametrize("shifted", [False, True])
def test_every_form_is_drawn_often(shifted: bool) -> None:
    rng = random.Random(5)
    answers = Counter(draw(rng, shifted).answer for _ in range(4000))
    assert set(answers) <= set(family(shifted))
    for forms in families(shifted):
        for form in forms.values():
            assert sum(answers[program] for program in form) == pytest.approx(2000 / len(forms), rel=0.25)


def test_near_misses_are_wrong_and_differ_in_one_word() -> None:
    rng = random.Random(6)
    for answer, sample in drawn().items():
        misses = {near_miss(rng, sample) for _ in range(30)}
        assert len(misses) >= 3
        for text in misses:
            assert any(worked(text, one) != other for one, other in sample.cases)
            words, others = (re.findall(r"\w+|[^\w ]", program) for program in (answer, text))
            assert sum(one != other for one, other in zip(words, others, strict=True)) == 1


def test_a_near_miss_fails_on_hidden_cases_where_the_shown_ones_hide_it() -> None:
    sample = replace(drawn()["max(x, 4)"], cases=(("9", "9"), ("5", "5"), ("3", "4")))
    assert judge(sample, "max(x, 4)")
    blind = replace(sample, cases=sample.cases[:2])
    assert judge(blind, "max(x, 5)")
    assert not judge(sample, "max(x, 5)")


def test_questions_and_answers_are_short() -> None:
    """At most 60 and 20 pieces, if numbers fall into digits and words stay whole."""
    for split in ("train", "out_of_domain"):
        for sample in islice(PROGRAMS.stream(split), 3000):
            sizes = [len(re.findall(r"[a-z]+|[A-Z]\w+|\d| ?->| ?\W", text)) for text in (sample.prompt, sample.answer)]
            assert sizes[0] <= 60
            assert sizes[1] <= 20
