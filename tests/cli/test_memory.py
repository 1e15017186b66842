"""Freed memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

CHURN = """
import resource, sys
from qsmdl.cli.memory import keep_freed_memory
import torch
kept = keep_freed_memory()
for _ in range(30):
    torch.ones(64 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    torch.ones(64 << 20, dtype=torch.uint8)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment):
    """Whether memory was kept, and the page faults of thirty volumes of 64 MiB that came and went."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", CHURN], env={**clean, **environment}, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return bool(int(kept)), int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_volumes_that_come_and_go_are_not_mapped_anew():
    kept, faults = page_faults()
    assert kept
    assert faults < 100
    # who sets it in the environment has the last word: so large a block is then mapped each time
    kept, faults = page_faults(MALLOC_MMAP_THRESHOLD_="1048576")
    assert not kept
    assert faults > 500
