"""How fast is BatchNorm + activation against torch, torch.compile, jax and a copy?

    python bench/batchnorm.py --shapes 32x64x56x56 --layouts NHWC --activations silu --against torch

The code is fastact/_bench/batchnorm.py, so that an installed wheel has it too:
`python -m fastact bench batchnorm`.
"""

import sys

from fastact._bench.batchnorm import SUITE
from fastact._bench.suite import main

if __name__ == "__main__":
    sys.exit(main(SUITE))
