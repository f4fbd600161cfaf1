"""Do threads help where they should, does time grow with the size alone, do few channels use all?

    python bench/scaling.py

The code is fastact/_bench/scaling.py, so that an installed wheel has it too:
`python -m fastact bench scaling`.
"""

import sys

from fastact._bench.scaling import SUITE
from fastact._bench.suite import main

if __name__ == "__main__":
    sys.exit(main(SUITE))
