"""How much memory does a call take, and what does a training step keep alive?

    python bench/memory.py --against torch

The code is fastact/_bench/memory.py, so that an installed wheel has it too:
`python -m fastact bench memory`.
"""

import sys

from fastact._bench.memory import SUITE
from fastact._bench.suite import main

if __name__ == "__main__":
    sys.exit(main(SUITE))
