"""What does a call cost where the array is too small to matter?

    python bench/calls.py --against torch

The code is fastact/_bench/calls.py, so that an installed wheel has it too:
`python -m fastact bench calls`.
"""

import sys

from fastact._bench.calls import SUITE
from fastact._bench.suite import main

if __name__ == "__main__":
    sys.exit(main(SUITE))
