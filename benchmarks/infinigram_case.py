"""The memory of one index in a process of its own: the bytes by which building and saving it raise the peak."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import peak_memory
from benchmarks.infinigram import VOCABULARY, corpus
from limberlm.outcomes.memorization.infinigram import Infinigram


def main(size: int) -> None:
    """Print the rise of this process's peak, from before the tokens are read to after the index is saved."""
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "tokens.npy", corpus(1000))
        Infinigram.build(corpus(1000), VOCABULARY).save(Path(folder) / "small")  # what importing and starting take
        file = Path(folder) / "tokens.bin"
        with file.open("wb") as out:
            for start in range(0, size, 1 << 16):  # in pieces: making them must not raise the peak
                out.write(corpus(min(1 << 16, size - start), start).tobytes())
        before = peak_memory()
        Infinigram.build(np.fromfile(file, dtype=np.uint16), VOCABULARY).save(Path(folder) / "index")
        print(peak_memory() - before)


if __name__ == "__main__":
    main(int(sys.argv[1]))
