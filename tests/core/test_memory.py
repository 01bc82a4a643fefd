import subprocess
import sys

import numpy as np

from polyseme.core.memory import peak_memory


def test_the_peak_stays_when_memory_is_given_back():
    size = 2**28
    before = peak_memory()
    held = np.ones(size, dtype=np.uint8)
    during = peak_memory()
    del held
    assert during >= before > 0
    assert during > 0.9 * size
    assert peak_memory() > during - 2**22  # Linux counts pages in batches


def test_a_process_does_not_count_what_the_one_that_started_it_held():
    held = np.ones(2**28, dtype=np.uint8)
    child = "from polyseme.core.memory import peak_memory; print(peak_memory())"
    said = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout
    assert float(said) < held.nbytes / 2
