"""How fast are the activations, forward and backward, against torch and against a copy?

    python bench/elementwise.py --quick

Every activation of the table; torch's function of the same name where torch is installed. `plain`
makes a new result each call, as users write it; `out` writes into an existing array. A wrong result
is reported as a failure, not as a time.
"""

import sys

import harness
import numpy as np

import fastact as fa

SIZES = (1, 64, 4_096, 100_000, 1_000_000, 16_000_000)
QUICK = (64, 100_000)


def contenders(function: fa.Activation, n: int) -> harness.Contenders:
    x = np.random.default_rng(n).standard_normal(n, dtype=np.float32) * 3
    dy, y = np.ones_like(x), np.empty_like(x)
    args = harness.arguments_for(function)
    value, gradient = fa.reference.activations[function.name]
    exact = gradient(dy, x, *args)
    exact = exact[0] if isinstance(exact, tuple) else exact
    result = function.backward(dy, x, *args)
    result = result[0] if isinstance(result, tuple) else result
    if not (harness.close(function(x, *args), value(x, *args)) and harness.close(result, exact)):
        raise ArithmeticError(f"{function.name}: wrong result at n = {n}")
    calls = {
        "plain": lambda: function(x, *args),
        "out": lambda: function(x, *args, out=y),
        "backward": lambda: function.backward(dy, x, *args),
        "copy": harness.copy_on_all_threads(x, y),
    }
    peer = harness.torch_peer(function.name)
    if peer is not None:
        import torch

        tensor = torch.from_numpy(x)
        extra = [torch.tensor([a]) for a in args]
        calls["torch"] = lambda: peer(tensor, *extra)
    return calls


def main() -> int:
    options = harness.parser(__doc__.splitlines()[0]).parse_args()
    rows, failed = [], False
    rounds = 5 if options.quick else options.rounds
    print(f"{'':12}{'n':>10}{'plain us':>12}{'out us':>12}{'backward us':>13}{'torch/plain':>13}"
          f"{'copy/out':>10}")  # fmt: skip
    for n in QUICK if options.quick else SIZES:
        for name, function in fa.activations.items():
            try:
                times = harness.compare(contenders(function, n), rounds)
            except ArithmeticError as error:
                print(f"FAILED {error}")
                failed = True
                continue
            rows.append({"activation": name, "n": n, "times": times})
            t = {key: value["median"] for key, value in times.items()}
            torch_ratio = f"{t['torch'] / t['plain']:13.2f}" if "torch" in t else f"{'-':>13}"
            print(
                f"{name:12}{n:10}{t['plain'] * 1e6:12.2f}{t['out'] * 1e6:12.2f}",
                f"{t['backward'] * 1e6:13.2f}{torch_ratio}{t['copy'] / t['out']:10.2f}",
                sep="",
                flush=True,
            )
    harness.report(rows, options)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
