"""Coefficients of csrc/vmath.h, pairs.h, power.h: minimax fits by the Remez exchange, in 60 digits.

Run it to print every coefficient list with the relative error of the fit before
the coefficients are rounded to float64 (the second number of a pair is what the first left over):

    python tools/minimax.py            # all fits and constants
    python tools/minimax.py mills_dd   # one of them

The fit minimises max |p(x)/q(x) / f(x) - 1|.  A rational fit solves, for a trial error E, the
equations p(x_i) - f(x_i) (1 + (-1)^i E) q(x_i) = 0 at the n + 2 reference points, and repeats
until E agrees with itself; then the reference moves to the extrema of the error.
Source of the method: E. W. Cheney, Introduction to Approximation Theory (1966), chapters 3 and 5.
"""

import sys
from itertools import pairwise

import mpmath as mp

mp.mp.dps = 60


def chebyshev_nodes(lo, hi, count):
    return [(lo + hi) / 2 - (hi - lo) / 2 * mp.cos(mp.pi * i / (count - 1)) for i in range(count)]


def solve_reference(f_values, nodes, deg_p, deg_q):
    """Coefficients and levelled error on one reference; q is monic in its constant term."""
    error = mp.mpf(0)
    q = [mp.mpf(1)]
    for _ in range(60 if deg_q else 1):
        size = deg_p + deg_q + 2
        a = mp.matrix(size, size)
        b = mp.matrix(size, 1)
        for i, (x, fx) in enumerate(zip(nodes, f_values, strict=True)):
            sign = 1 if i % 2 else -1
            for j in range(deg_p + 1):
                a[i, j] = x**j
            for j in range(1, deg_q + 1):
                a[i, deg_p + j] = -fx * (1 + sign * error) * x**j
            # the error of this round appears once more, times q of the round before
            q_old = 1 if not deg_q or error == 0 else mp.polyval(q[::-1], x)
            a[i, size - 1] = -sign * fx * q_old
            b[i] = fx * (1 + sign * error) if deg_q and error != 0 else fx
        s = mp.lu_solve(a, b)
        p = [s[j] for j in range(deg_p + 1)]
        q = [mp.mpf(1)] + [s[deg_p + j] for j in range(1, deg_q + 1)]
        step = s[size - 1]
        if not deg_q:
            return p, q, step
        error += step
        if abs(step) < abs(error) * mp.mpf(10) ** -10:
            break
    return p, q, error


def evaluate(p, q, x):
    return mp.polyval(p[::-1], x) / mp.polyval(q[::-1], x)


def extrema(err, lo, hi, nodes, grid=24):
    """One extremum of the error for each sign alternation, searched around the reference."""
    points = []
    edges = [lo] + [(u + v) / 2 for u, v in pairwise(nodes)] + [hi]
    for i in range(len(nodes)):
        u, v = edges[i], edges[i + 1]
        xs = [u + (v - u) * j / grid for j in range(grid + 1)]
        sign = 1 if err(nodes[i]) > 0 else -1
        values = [sign * err(x) for x in xs]
        j = max(range(grid + 1), key=lambda m: values[m])
        if 0 < j < grid:  # parabola through three points
            y0, y1, y2 = values[j - 1 : j + 2]
            den = y0 - 2 * y1 + y2
            shift = (y0 - y2) / (2 * den) if den else 0
            points.append(xs[j] + shift * (v - u) / grid)
        else:
            points.append(xs[j])
    return points


def minimax(f, lo, hi, deg_p, deg_q=0, rounds=14):
    lo, hi = mp.mpf(lo), mp.mpf(hi)
    nodes = chebyshev_nodes(lo, hi, deg_p + deg_q + 2)
    for _ in range(rounds):
        values = [f(x) for x in nodes]
        p, q, level = solve_reference(values, nodes, deg_p, deg_q)

        def err(x, p=p, q=q):
            return evaluate(p, q, x) / f(x) - 1

        nodes = extrema(err, lo, hi, nodes)
        worst = max(abs(err(x)) for x in nodes)
        if worst < abs(level) * mp.mpf("1.001"):
            break
    return p, q, worst


def chebyshev_fit(g, lo, hi, degree):
    """Monomial coefficients of the interpolant in the Chebyshev nodes: near minimax."""
    lo, hi = mp.mpf(lo), mp.mpf(hi)
    mid, half, count = (lo + hi) / 2, (hi - lo) / 2, degree + 1
    x = [mp.cos(mp.pi * (k + mp.mpf(1) / 2) / count) for k in range(count)]
    a, b = mp.matrix(count, count), mp.matrix(count, 1)
    for i in range(count):
        t = mid + half * x[i]
        b[i] = g(t)
        for j in range(count):
            a[i, j] = t**j
    c = mp.lu_solve(a, b)
    p = [c[j] for j in range(count)]
    grid = [mid + half * mp.cos(mp.pi * k / 157) for k in range(158)]
    return p, [mp.mpf(1)], max(abs(evaluate(p, [1], t) / g(t) - 1) for t in grid)


# ---- the functions of vmath.h ---------------------------------------------------------------

HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0000001")


def expm1_over_r(r):
    return mp.expm1(r) / r if r else mp.mpf(1)


def tanh_half(s):  # tanh(r / 2) / r, s = r^2
    return mp.tanh(mp.sqrt(s) / 2) / mp.sqrt(s) if s else mp.mpf(1) / 2


def twice_atanh(s):  # 2 atanh(w) / w, s = w^2
    return 2 * mp.atanh(mp.sqrt(s)) / mp.sqrt(s) if s else mp.mpf(2)


def mills(z):  # Phi(-z) e^(z^2 / 2)
    return mp.exp(z * z / 2) * mp.erfc(z / mp.sqrt(2)) / 2


def expm1_rest(r):  # (e^r - 1 - r - r^2/2) / r^3
    return (mp.expm1(r) - r - r * r / 2) / r**3 if abs(r) > mp.mpf(10) ** -12 else mp.mpf(1) / 6


def twice_atanh_rest(s):  # (2 atanh(w) / w - 2) / s
    return (twice_atanh(s) - 2) / s if s > mp.mpf(10) ** -20 else mp.mpf(2) / 3


def mills_of_t(t):  # (z + 4) mills(z), t = (z - 4) / (z + 4)
    z = 4 * (1 + t) / (1 - t)
    return (z + 4) * mills(z)


FITS = {
    "expm1_d": lambda: minimax(expm1_over_r, -HALF_LN2, HALF_LN2, 6),
    "exp_ratio_d": lambda: minimax(tanh_half, 0, HALF_LN2**2, 1, 1),
    "tanh_d": lambda: minimax(tanh_half, 0, HALF_LN2**2, 1, 2),
    "log1p_d": lambda: minimax(twice_atanh, 0, mp.mpf(1) / 9, 5),
    "mills_d": lambda: minimax(mills, 0, 20, 5, 6),
    "mills_fine_d": lambda: minimax(mills, 0, 20, 6, 7),
    "expm1_dd": lambda: minimax(expm1_rest, -HALF_LN2, HALF_LN2, 10),
    "log1p_dd": lambda: minimax(twice_atanh_rest, 0, mp.mpf(1) / 9, 10),
    "mills_dd": lambda: chebyshev_fit(mills_of_t, -1, mp.mpf(51) / 59, 26),
}


SELU_SCALE = mp.mpf("1.0507009873554804934193349852946")
SELU_ALPHA = mp.mpf("1.6732632423543772848170429916717")
GELU_TANH_A = 2 * mp.sqrt(2 / mp.pi)

CONSTANTS = {
    "log2e": 1 / mp.log(2),
    "ln2": mp.log(2),
    "density": 1 / mp.sqrt(2 * mp.pi),
    "selu_scale": SELU_SCALE,
    "selu_scale_less_1": SELU_SCALE - 1,
    "selu_scale_alpha": SELU_SCALE * SELU_ALPHA,
    "gelu_tanh_a": GELU_TANH_A,
    "gelu_tanh_b": GELU_TANH_A * mp.mpf("0.044715"),
    "one_third": mp.mpf(1) / 3,  # log1p_dd takes this pair for half of its p0
}


# ---- adapted forms -----------------------------------------------------------------------------
#
# D. E. Knuth, The Art of Computer Programming, volume 2, section 4.6.4: monic polynomials of degree
# 5 and 6 with three multiplications.  A cubic equation gives the first parameter, by up to three
# real roots.


def real_roots_of_cubic(f):
    nodes = [mp.mpf(k) for k in range(-2, 2)]
    powers = mp.matrix([[x**j for j in (3, 2, 1, 0)] for x in nodes])
    cubic = mp.lu_solve(powers, mp.matrix([f(x) for x in nodes]))
    roots = mp.polyroots(list(cubic), maxsteps=500, extraprec=500)
    return [mp.re(r) for r in roots if abs(mp.im(r)) < mp.mpf(10) ** -25]


def adapted_five(u):
    """((y + a1) y + a2) (x + a3) + a4, y = (x + a0)^2"""

    def shifted(a0):  # the coefficients in x + a0
        v = [*u[:5], mp.mpf(1)]
        for i in range(5):
            for j in range(4, i - 1, -1):
                v[j] -= a0 * v[j + 1]
        return v

    def rest(a0):
        _, _, v2, v3, v4, _ = shifted(a0)
        return v2 - v3 * v4

    for a0 in real_roots_of_cubic(rest):
        v = shifted(a0)
        yield a0, v[3], v[1], v[4] + a0, v[0] - v[1] * v[4]


def adapted_six(u):
    """(w - z + a4) w + a5, z = (x + a0) x + a1, w = (x + a2) z + a3"""
    s = (u[5] + 1) / 2

    def parts(a0):  # w = x^3 + s x^2 + g x + h, w - z + a4 = x^3 + ... + i
        g = (u[4] - s * (s - 1) + a0) / 2
        both = u[3] - s * (g - a0) - g * (s - 1)  # h + i
        h = s * both - (u[2] - g * (g - a0))
        return g, h, both - h

    def rest(a0):
        g, h, i = parts(a0)
        return g * i + h * (g - a0) - u[1]

    for a0 in real_roots_of_cubic(rest):
        g, h, i = parts(a0)
        a2 = s - a0
        a1 = g - a0 * a2
        a3 = h - a1 * a2
        yield a0, a1, a2, a3, i - h + a1, u[0] - h * i


def show_adapted(fit):
    p, q, _ = FITS[fit]()
    print(f"{fit}, adapted: the ratio of the leading coefficients is {pair(p[-1] / q[-1])}")
    for label, c in (("p", p), ("q", q)):
        monic = [v / c[-1] for v in c]
        if len(monic) == 8:  # x times a polynomial of degree 6, plus a constant
            print(f"  {label}: constant {float(monic.pop(0)).hex()}")
        for choice in adapted_five(monic) if len(monic) == 6 else adapted_six(monic):
            print(f"  {label}:", *(float(a).hex() for a in choice))


def float32_fit(f, hi, count):
    """Coefficients of float32, one rounded after the other and the rest fitted again.

    Those of fa_exp_parts_f are some units off: there the largest error over all inputs is least.
    """
    rounded = []
    for k in range(count):
        zeros = [mp.cos(mp.pi * (i + mp.mpf(1) / 2) / (count - k)) for i in range(count - k)]
        nodes = [hi * (1 - z) / 2 for z in zeros]
        known = lambda x: sum(c * x**j for j, c in enumerate(rounded))  # noqa: E731
        a = mp.matrix([[x**j for j in range(k, count)] for x in nodes])
        left = mp.lu_solve(a, mp.matrix([f(x) - known(x) for x in nodes]))
        mantissa, exponent = mp.frexp(left[0])
        rounded.append(mp.nint(mantissa * 2**24) * mp.mpf(2) ** (exponent - 24))
    return rounded


def least_of_largest(error_of, powers, hi, grid=2000):
    """c_p, p of `powers`, that make the largest |error_of(r) - sum c_p r^p| / e^r to hi least."""
    points = [-hi + 2 * hi * i / grid for i in range(grid + 1)]
    count = len(powers) + 1
    reference = [points[round(grid * i / (count - 1))] for i in range(count)]
    for _ in range(12):
        a = mp.matrix(
            [[r**p for p in powers] + [(-1) ** i * mp.exp(r)] for i, r in enumerate(reference)]
        )
        c = mp.lu_solve(a, mp.matrix([error_of(r) for r in reference]))[: len(powers)]
        left = [
            (error_of(r) - sum(c[j] * r**p for j, p in enumerate(powers))) / mp.exp(r)
            for r in points
        ]
        peaks = []  # the largest of each sign in turn
        for r, e in zip(points, left, strict=True):
            if peaks and (e > 0) == (peaks[-1][1] > 0):
                peaks[-1] = max(peaks[-1], (r, e), key=lambda peak: abs(peak[1]))
            else:
                peaks.append((r, e))
        while len(peaks) > count:
            peaks.pop(0 if abs(peaks[0][1]) < abs(peaks[-1][1]) else -1)
        if len(peaks) < count:
            break
        reference = [r for r, _ in peaks]
    return c


def power_coefficients():
    """Of r^3 and r^4 in e^r, |r| <= ln2 / 16 and a little, as float32, one after the other."""
    known, powers, hi = {}, [3, 4], mp.log(2) / 16 * (1 + mp.mpf(2) ** -13)
    while powers:
        rest = lambda r: mp.expm1(r) - r - r * r / 2 - sum(c * r**p for p, c in known.items())  # noqa: E731
        mantissa, exponent = mp.frexp(least_of_largest(rest, powers, hi)[0])
        known[powers.pop(0)] = mp.nint(mantissa * 2**24) * mp.mpf(2) ** (exponent - 24)
    return known.values()


def twice_tanh_half_rest(s):  # (2 tanh(r / 2) / r - 1) / s, s = r^2
    return (2 * tanh_half(s) - 1) / s


def ln2_in_parts():
    """ln2 in parts of 40 bits, the last of 53: k times a part is exact for |k| < 2^13."""
    parts, rest = [], mp.log(2)
    for scale in (40, 80):
        parts.append(mp.floor(rest * mp.mpf(2) ** scale) / mp.mpf(2) ** scale)
        rest -= parts[-1]
    return [*parts, rest]


def pair(c):
    hi = float(c)
    return f"{hi.hex()}  {float(c - mp.mpf(hi)).hex()}"


def show(name):
    p, q, worst = FITS[name]()
    print(f"{name}: relative error 2^{mp.nstr(mp.log(worst, 2), 4)}")
    for label, coefficients in (("p", p), ("q", q)):
        for i, c in enumerate(coefficients):
            print(f"  {label}{i:<2} {pair(c)}")


if __name__ == "__main__":
    for fit in sys.argv[1:] or FITS:
        show(fit)
    if not sys.argv[1:]:
        for constant, value in CONSTANTS.items():
            print(f"{constant}: {pair(value)}")
        print("ln2 in parts:", *(float(part).hex() for part in ln2_in_parts()))
        for fit in ("mills_d", "mills_fine_d"):
            show_adapted(fit)
        small = float32_fit(twice_tanh_half_rest, HALF_LN2**2, 3)
        print("exp_parts_f:", *(float(c).hex() for c in small))
        print("power_f:", *(float(c).hex() for c in power_coefficients()))
