"""How fast is a training step of BatchNorm + activation, against torch and against a copy?

    python bench/batchnorm.py --quick

`forward` and `step` (forward + backward) are plain calls: a new result each. The floor of a step is
five passes over memory (three reads, two writes), given as 2.5 copies. A wrong result is a failure.
"""

import sys

import harness
import numpy as np

import fastact as fa

SHAPES = {
    "NCHW": (
        (32, 64, 56, 56), (32, 256, 14, 14), (8, 64, 112, 112), (128, 3, 32, 32), (16, 32, 8, 8),
    ),
    "NHWC": ((32, 56, 56, 64), (32, 14, 14, 256)),
    "NC": ((65536, 64), (4096, 1024), (256, 512), (32, 64)),
}  # fmt: skip
QUICK = {"NCHW": ((32, 256, 14, 14), (16, 32, 8, 8)), "NC": ((256, 512),)}


def torch_step(x, weight, bias, dy, axis, name, args):
    peer = harness.torch_peer(name)
    if peer is None:
        return None
    import torch

    def tensor(array):
        # the same memory with the channels on axis 1, as torch wants them
        return torch.from_numpy(array).movedim(axis, 1)

    leaf = tensor(x).detach().requires_grad_()
    w, b = (torch.from_numpy(a).requires_grad_() for a in (weight, bias))
    extra = [torch.tensor([a]) for a in args]

    def step():
        y = torch.nn.functional.batch_norm(leaf, None, None, w, b, training=True)
        peer(y, *extra).backward(tensor(dy))
        leaf.grad = w.grad = b.grad = None

    return step


def contenders(shape, axis, name):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    channels = shape[axis]
    weight, bias = (rng.uniform(0.5, 2, channels).astype(np.float32) for _ in range(2))
    args = harness.arguments_for(fa.activations[name])
    params = dict(zip(fa.activations[name].parameters, args, strict=False)) or None
    options = {"weight": weight, "bias": bias, "axis": axis}
    options |= {"activation": name, "activation_params": params}

    def step():
        _, ctx = fa.batch_norm_forward(x, **options)
        return fa.batch_norm_backward(dy, ctx)

    check(x, dy, options, step())
    y = np.empty_like(x)
    calls = {
        "forward": lambda: fa.batch_norm(x, training=True, **options),
        "step": step,
        "copy": harness.copy_on_all_threads(x.reshape(-1), y.reshape(-1)),
    }
    peer = torch_step(x, weight, bias, dy, axis, name, args)
    return calls | ({"torch": peer} if peer else {})


def check(x, dy, options, grads):
    if x.size > 1 << 21:
        return  # float64 copies of it would not fit; the smaller shapes run the same code
    _, ctx = fa.reference.batch_norm_forward(x, round_to=np.float32, **options)
    exact = fa.reference.batch_norm_backward(dy, ctx)
    if not np.allclose(grads.x, exact.x, rtol=1e-6, atol=1e-7 * np.abs(exact.x).max()):
        raise ArithmeticError(f"wrong gradient for shape {x.shape}, {options['activation']}")


def main() -> int:
    options = harness.parser(__doc__.splitlines()[0]).parse_args()
    rows, failed = [], False
    rounds = 5 if options.quick else options.rounds
    print(f"{'shape':>22} {'activation':12}{'forward us':>12}{'step us':>12}{'torch/step':>12}"
          f"{'copy/forward':>14}{'floor/step':>12}")  # fmt: skip
    for layout, shapes in (QUICK if options.quick else SHAPES).items():
        for shape in shapes:
            for name in fa.activations:
                axis = 1 if layout == "NCHW" else -1
                try:
                    times = harness.compare(contenders(shape, axis, name), rounds)
                except ArithmeticError as error:
                    print(f"FAILED {error}")
                    failed = True
                    continue
                rows.append({"shape": shape, "axis": axis, "activation": name, "times": times})
                t = {key: value["median"] for key, value in times.items()}
                ratio = f"{t['torch'] / t['step']:12.2f}" if "torch" in t else f"{'-':>12}"
                print(
                    f"{shape!s:>22} {name:12}{t['forward'] * 1e6:12.1f}{t['step'] * 1e6:12.1f}",
                    f"{ratio}{t['copy'] / t['forward']:14.2f}{2.5 * t['copy'] / t['step']:12.2f}",
                    sep="",
                    flush=True,
                )
    harness.report(rows, options)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
