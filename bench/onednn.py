"""How fast is BatchNorm + ReLU against oneDNN's own JIT, every buffer allocated once on both sides?

    python bench/onednn.py

The code is fastact/_bench/onednn.py, so that an installed wheel has it too:
`python -m fastact bench onednn`.
"""

import sys

from fastact._bench.onednn import SUITE
from fastact._bench.suite import main

if __name__ == "__main__":
    sys.exit(main(SUITE))
