"""Train, fine-tune and fairly judge deep-learning quantitative susceptibility mapping."""

import os

__version__ = "0.1.0"

# torch reads this at its first large allocation on the CPU. Fresh volumes in pages of 2 MB instead of 4 kB save what otherwise is most of the time of
# everything but Fourier transforms (soft threshold of a volume: 3.5 times faster). Of no effect outside Linux; set to 0 to do without.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
