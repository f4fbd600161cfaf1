"""How fast are the activations, forward and backward, against NumPy, torch, jax and a copy?

    python bench/elementwise.py --activations gelu --sizes 4096 --modes forward --against torch

The code is fastact/_bench/elementwise.py, so that an installed wheel has it too:
`python -m fastact bench elementwise`.
"""

import sys

from fastact._bench.elementwise import SUITE
from fastact._bench.suite import main

if __name__ == "__main__":
    sys.exit(main(SUITE))
