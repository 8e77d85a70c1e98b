"""How different a set of texts is: shares of distinct n-grams, likeness of each to the others, and Vendi.

A text is a sequence of tokens of any kind, and a set is a list of texts. Which set is meant is part of a value's name:
*per input*, many answers to one question, averaged over questions; *across inputs*, one answer to each of many
questions (2310.06452). Values are comparable at equal numbers of texts, equal lengths and one tokenizer only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from limberlm.geometry import effective_rank

Text = Sequence[Hashable]


def ngrams(text: Text, n: int) -> list[tuple[Hashable, ...]]:
    """The n-grams of one text, in order; none if it is shorter than n."""
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def distinct_n(texts: Sequence[Text], n: int) -> float:
    """Distinct n-grams over all n-grams of a set of texts; in [0, 1], falls as texts repeat themselves or each other.

    It also falls with length, whatever the texts say: 500 token types drawn evenly give 0.753 at 300 tokens and 0.582
    at 600. 0 where no text has n tokens (our choice). Source: Li et al. 1510.03055.

    >>> distinct_n(["abab"], 1), round(distinct_n(["abab"], 2), 4)
    (0.5, 0.6667)
    """
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def expectation_adjusted_distinct(texts: Sequence[Text], vocabulary: int) -> float:
    """Distinct tokens over the number expected of as many even draws: D / (V [1 - ((V-1)/V)^C]).

    D distinct tokens of C, V the size of the vocabulary, which stays fixed in a comparison. About 1 for even draws of
    any length, where distinct-1 falls. 0 for no tokens (our choice). Source: Liu et al. 2202.13587.

    Raises:
        ValueError: the vocabulary is not positive.

    >>> round(expectation_adjusted_distinct(["aabb"], 4), 4)
    0.7314
    """
    if vocabulary < 1:
        raise ValueError(f"a vocabulary has at least one token, not {vocabulary}")
    tokens = [token for text in texts for token in text]
    if not tokens:
        return 0.0
    if vocabulary == 1:
        return float(len(set(tokens)))
    return len(set(tokens)) / (-vocabulary * math.expm1(len(tokens) * math.log1p(-1 / vocabulary)))


def bleu(text: Text, references: Sequence[Text], order: int = 4) -> float:
    """BLEU of one text against references, in [0, 1], with n-grams up to `order` or the text's length if shorter.

    The geometric mean of clipped n-gram precisions, times exp(1 - r/l) where the text (length l) is shorter than the
    reference nearest to it in length (r, the shorter of two as near). Not smoothed: 0 where some order has no match. An
    empty text scores 1 against an empty reference and 0 otherwise (our choice). Source: Papineni et al. 2002; the order
    of short texts is sacrebleu's `use_effective_order`.

    >>> bleu("abcd", ["abcd"]), bleu("abcd", ["wxyz"])
    (1.0, 0.0)
    """
    return _bleu([text, *references], [0], order)[0]


def self_bleu(texts: Sequence[Text], references: int, order: int = 4) -> float:
    """Mean BLEU of each text against the others; in [0, 1], *higher is less diverse*.

    It rises with the number of references, so that number is fixed: the first `references` + 1 texts are taken, which
    of independent samples are as good as any. Source: Zhu et al. 1802.01886 (Texygen), there smoothed.

    Raises:
        ValueError: there are fewer texts than that, or no reference is asked for.

    >>> self_bleu(["abcd", "abcd", "abcd"], references=2)
    1.0
    """
    if not 1 <= references < len(texts):
        raise ValueError(f"{len(texts)} texts cannot have {references} references each")
    taken = texts[: references + 1]
    return sum(_bleu(taken, range(len(taken)), order)) / len(taken)


def _bleu(texts: Sequence[Text], asked: Iterable[int], order: int) -> list[float]:
    """BLEU of each of the texts `asked` against all others; n-grams are counted once for all of them."""
    shares = [_shared([Counter(ngrams(text, n)) for text in texts]) for n in range(1, order + 1)]
    lengths = [len(text) for text in texts]
    found = []
    for i in asked:
        others, own = lengths[:i] + lengths[i + 1 :], lengths[i]
        precisions = [share[i] for share in shares[:own]]
        if not own:
            found.append(float(not all(others)))
        elif not all(precisions):
            found.append(0.0)
        else:
            nearest = min((abs(other - own), other) for other in others)[1]
            logs = [math.log(precision) for precision in precisions]
            found.append(math.exp(sum(logs) / len(logs) + min(0.0, 1 - nearest / own)))
    return found


def _shared(counts: Sequence[Counter[tuple[Hashable, ...]]]) -> list[float]:
    """Share of each text's n-grams that another has too, each n-gram up to as often as the one that has most of it."""
    most: Counter[tuple[Hashable, ...]] = Counter()
    next_most: Counter[tuple[Hashable, ...]] = Counter()
    for count in counts:
        for gram, times in count.items():
            if times > most[gram]:
                most[gram], next_most[gram] = times, most[gram]
            elif times > next_most[gram]:
                next_most[gram] = times
    matched = (
        sum(min(times, most[gram] if times < most[gram] else next_most[gram]) for gram, times in count.items())
        for count in counts
    )
    return [hits / max(count.total(), 1) for hits, count in zip(matched, counts, strict=True)]


def ngram_kernel(texts: Sequence[Text], order: int = 2) -> Tensor:
    """Cosines [n, n] of the texts' counts of n-grams up to `order`, float64; 1 on the diagonal.

    Two empty texts are alike, an empty and another one are not. It reads tokens alone: an encoder that is the measured
    model would make diversity a function of its geometry (our choice).
    """
    counts = [Counter(gram for n in range(1, order + 1) for gram in ngrams(text, n)) for text in texts]
    places = {gram: i for i, gram in enumerate(dict.fromkeys(gram for count in counts for gram in count))}
    vectors = torch.zeros(len(texts), len(places) + 1, dtype=torch.float64)
    for row, count in enumerate(counts):
        for gram, times in count.items():
            vectors[row, places[gram]] = times
        vectors[row, -1] = float(not count)
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    return vectors @ vectors.T


def vendi(kernel: Tensor) -> float:
    """Vendi score: exp of the entropy of the eigenvalues of K/n, K [n, n] positive semi-definite with unit diagonal.

    The effective number of different texts, in [1, n]; rises with diversity: 1 for identical, n for orthogonal ones.
    The entropy is that of `limberlm.geometry.effective_rank`. Source: Friedman and Dieng 2210.02410.

    Raises:
        ValueError: not such a matrix.

    >>> groups = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2))
    >>> round(vendi(groups), 4)
    1.9601
    """
    matrix = _checked(kernel)
    values = torch.linalg.eigvalsh(matrix)
    if float(values[0]) < -1e-6 * len(matrix):
        raise ValueError(f"not a kernel: eigenvalue {float(values[0]):.3g}")
    return float(effective_rank(values.clamp(min=0)))


def pairwise_diversity(kernel: Tensor, ceiling: float = 1.0) -> float:
    """1 minus the mean likeness of two different texts, over `ceiling`: what unrelated texts have.

    `kernel` [n, n] with unit diagonal. With the diversity of answers to shuffled questions as the ceiling, a kernel
    that finds everything alike does not decide the value. Standard; the ceiling is our choice.

    Raises:
        ValueError: fewer than two texts, or a ceiling that is not positive.

    >>> pairwise_diversity(torch.eye(3)), pairwise_diversity(torch.ones(3, 3))
    (1.0, 0.0)
    """
    matrix = _checked(kernel)
    n = len(matrix)
    if n < 2 or not ceiling > 0:
        raise ValueError(f"needs two texts and a positive ceiling, not {n} and {ceiling}")
    return (1 - float(matrix.sum() - matrix.trace()) / (n * (n - 1))) / ceiling


def _checked(kernel: Tensor) -> Tensor:
    matrix = kernel.to(torch.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and len(matrix) > 0
    if not square or not bool(((matrix.diagonal() - 1).abs() < 1e-6).all()):
        raise ValueError("a kernel is square, and every text is wholly like itself (1 on the diagonal)")
    if not bool((matrix - matrix.T).abs().max() < 1e-6):
        raise ValueError("a kernel is symmetric")
    return matrix
