"""Real data for embeddings: the tokens of Python's own sources, and which stand near which."""

import os
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

LEAST_OCCURRENCES = 3  # of a token that is in the vocabulary
WINDOW = 5  # tokens to each side
NEGATIVES = 5  # for each pair
HELD_OUT = 10  # every tenth file
KINDS = {tokenize.NAME, tokenize.NUMBER, tokenize.OP, tokenize.STRING}


class Pairs(NamedTuple):
    """Batches of skip-grams: a token, one that stands near it, and others at random.

    Attributes:
        centers: int32 ``[..., pairs]``.
        contexts: int32 ``[..., pairs]``.
        negatives: int32 ``[..., pairs, NEGATIVES]``.
    """

    centers: np.ndarray
    contexts: np.ndarray
    negatives: np.ndarray


class Corpus:
    """The tokens of some files, those that occur often enough, by their number in a vocabulary."""

    def __init__(
        self, vocabulary: dict[str, int], frequencies: np.ndarray, text: list[str]
    ) -> None:
        self.height = len(vocabulary)
        known = (vocabulary.get(token, -1) for token in text)
        self.text = np.array([token for token in known if token >= 0], np.int32)
        chances = frequencies**0.75  # word2vec's
        self.cumulative = np.cumsum(chances / chances.sum())

    def pairs(self, seed: Sequence[int], *shape: int) -> Pairs:
        """Pairs at random places of the text, and negatives by their frequency to the power 3/4."""
        rng = np.random.default_rng(seed)
        places = rng.integers(WINDOW, len(self.text) - WINDOW, shape)
        offsets = rng.integers(1, WINDOW + 1, shape) * rng.choice((-1, 1), shape)
        drawn = np.searchsorted(self.cumulative, rng.random((*shape, NEGATIVES)))
        negatives = np.minimum(drawn, self.height - 1).astype(np.int32)
        return Pairs(self.text[places], self.text[places + offsets], negatives)


def sources() -> list[Path]:
    """The files of the standard library, as far as it is installed, its tests among them."""
    files = Path(os.__file__).parent.rglob("*.py")
    return sorted(file for file in files if "site-packages" not in file.parts)


def corpora(files: list[Path]) -> tuple[Corpus, Corpus]:
    """That to learn from, and the one of every tenth file, in the vocabulary of the first."""
    text = [token for i, file in enumerate(files) if i % HELD_OUT for token in tokens(file)]
    counts = [(t, n) for t, n in Counter(text).most_common() if n >= LEAST_OCCURRENCES]
    vocabulary = {token: number for number, (token, _) in enumerate(counts)}
    frequencies = np.array([n for _, n in counts], np.float64)
    held_out = [token for file in files[::HELD_OUT] for token in tokens(file)]
    return tuple(Corpus(vocabulary, frequencies, t) for t in (text, held_out))


def tokens(file: Path) -> Iterator[str]:
    """Up to the first that Python cannot read: some of its tests are made so."""
    with file.open("rb") as lines:
        try:
            for token in tokenize.tokenize(lines.readline):
                if token.type in KINDS:
                    yield token.string
        except (SyntaxError, tokenize.TokenError):
            return
