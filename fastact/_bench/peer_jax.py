"""jax, compiled."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fastact._bench.peer import (
    Function,
    Job,
    NotTheSame,
    Peer,
    candidates,
    first_that_fits,
    require,
)
from fastact._bench.timing import Statement, Statements

if TYPE_CHECKING:
    from fastact._bench.batchnorm import Job as BatchNormJob
    from fastact._bench.elementwise import Job as ElementwiseJob


class Jax(Peer):
    """jax.jit of the function, and of its vector-Jacobian product; waits for the result."""

    module = "jax"

    def function(self, job: Job) -> Function:
        import jax

        modules = (jax.nn, jax.numpy)
        sample = jax.numpy.asarray(job.sample)
        args = tuple(job.required.values())
        return first_that_fits(
            candidates(job.name, modules), job, lambda f: np.asarray(f(sample, *args))
        )

    def elementwise(self, job: ElementwiseJob) -> Statements:
        import jax

        call, args = self.function(job), tuple(job.required.values())
        x, dy = jax.numpy.asarray(job.stacked), jax.numpy.asarray(job.dy)
        forward = jax.jit(lambda x: call(x, *args))
        if np.shares_memory(np.asarray(forward(x)), np.asarray(x)):
            raise NotTheSame  # it hands back its argument
        backward = jax.jit(lambda dy, x: jax.vjp(lambda x: call(x, *args), x)[1](dy)[0])
        return {
            "forward": Statement("f(x).block_until_ready()", f=forward, x=x),
            "backward": Statement("f(dy, x).block_until_ready()", f=backward, x=x, dy=dy),
        }

    def batch_norm(self, job: BatchNormJob) -> Statements:
        import jax

        act, args = self.function(job), tuple(job.required.values())
        layer = functools.partial(jax_layer, lambda z: act(z, *args), job.axis)
        given = tuple(map(jax.numpy.asarray, (job.x, job.weight, job.bias)))
        running = tuple(map(jax.numpy.asarray, (job.running_mean, job.running_var)))
        dy = jax.numpy.asarray(job.dy)

        def step(given: Any, running: Any, dy: Any) -> Any:
            y, pull, running = jax.vjp(lambda *g: layer(*g, *running), *given, has_aux=True)
            return y, pull(dy), running

        def evaluation(x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Any:
            return act(jax_normalise(x, mean, var, weight, bias, job.axis), *args)

        forward, step, evaluation = (jax.jit(f) for f in (layer, step, evaluation))
        require(job.some(np.asarray(step(given, running, dy)[1][0])), job.exact_gradient)
        space = {"ready": jax.block_until_ready, "given": given, "running": running}
        return {
            "forward": Statement("ready(f(*given, *running))", f=forward, **space),
            "step": Statement("ready(f(given, running, dy))", f=step, dy=dy, **space),
            "evaluation": Statement("ready(f(*given, *running))", f=evaluation, **space),
        }


def jax_normalise(x: Any, mean: Any, var: Any, weight: Any, bias: Any, axis: int) -> Any:
    import jax

    shape = [1] * x.ndim
    shape[axis] = -1
    mean, scale, bias = (a.reshape(shape) for a in (mean, weight * jax.lax.rsqrt(var + 1e-5), bias))
    return (x - mean) * scale + bias


def jax_layer(
    act: Function, axis: int, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any
) -> Any:
    """As flax's BatchNorm: the variance from the mean of squares; running statistics returned."""
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    mean = x.mean(axes)
    var = (x * x).mean(axes) - mean * mean
    y = act(jax_normalise(x, mean, var, weight, bias, axis))
    return y, (0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var)
