"""BatchNorm, alone or fused with a residual and an activation.

Every check comes before the first write (_checks.py, _call.py); the arithmetic is in
csrc/batchnorm.inc. The layer is in _layer.py, the passes one by one in _pieces.py.
"""

from __future__ import annotations

from typing import Any

from fastact import _checks as checks
from fastact import _quick
from fastact._call import SAVES, forward
from fastact._context import BatchNormGradients
from fastact._gradient import backward, backward_on_all, check_context
from fastact._running import MOMENTUM


def batch_norm(
    x: object,
    *,
    weight: object = None,
    bias: object = None,
    running_mean: object = None,
    running_var: object = None,
    training: object = False,
    momentum: object = MOMENTUM,
    eps: object = 1e-5,
    axis: object = 1,
    activation: object = None,
    activation_params: object = None,
    residual: object = None,
    mask: object = None,
    sample_weight: object = None,
    convention: object = "torch",
    comm: object = None,
    out: object = None,
) -> Any:
    """Batch normalisation, optionally followed by an activation, in one pass over memory.

    ``y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)``, channel by channel.

    Parameters
    ----------
    x : numpy.ndarray
        float16, bfloat16, float32 or float64, at least two dimensions, any strides. Or a
        dask.array.Array: then all results are lazy, and statistics are one pass a chunk.
    weight, bias : array_like of shape (C,), optional
        1 and 0 by default.
    running_mean, running_var : numpy.ndarray of shape (C,), optional
        With ``training=False`` they are what normalises x. In training they are updated in place:
        ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance.
    training : bool
        Whether the statistics (biased variance) are computed from x.
    momentum : float, 0 to 1
    eps : float, at least 0
    axis : int
        The channel axis: 1 for NCHW, -1 for NHWC and (N, C).
    activation : str or Activation, optional
        Any of `fastact.activations`, applied before the value leaves the cache. The result is that
        of the unfused calls, bit for bit.
    activation_params : dict, optional
        Its parameters: numbers, or for a learned parameter an array of shape () or (C,).
    residual : numpy.ndarray, optional
        Shape and dtype of x: what is added before the activation, which reads it once. The result
        is that of the unfused calls, ``activation(batch_norm(x) + residual)``, bit for bit.
    mask : array_like of bool, optional
        True for what counts. Of a shape that broadcasts to x's without the channel axis: (N,) for
        x of (N, C), (N, L) for (N, C, L) or (N, L, C). Elements that do not count take no part in
        the statistics, whatever they hold; y is 0 there, and so is the gradient.
    sample_weight : array_like, optional
        How much each element counts in the statistics, from 0 on, of a shape as for `mask`; 0 is
        masked. A weight of 2 does what the element twice would do, running statistics included.
    convention : str
        How running statistics are updated. "torch": `momentum` is the share of the batch, and the
        variance that is stored is the unbiased one. "keras", "flax", "onnx": `momentum` is the
        share of what was there, the variance biased. Or say both: "unbiased/batch" (torch's),
        "unbiased/running", "biased/batch", "biased/running". The default momentum is a tenth of
        the batch in each.
    comm : mpi4py communicator, optional
        The processes whose data is one batch, or any object with ``Allreduce(send, receive)`` or
        ``allreduce(array)``, which sum float64 arrays over all ranks. All ranks call with their
        own x, which may have any number of elements, none too, and the same other arguments.
        Statistics, running statistics and the gradients of weight and bias are those of the whole
        batch, with the same bits on all ranks. An error on one rank is raised on all.
    out : numpy.ndarray, optional
        Shape and dtype of x. It may be the residual and, with ``training=False``, x itself.

    Returns
    -------
    numpy.ndarray
        Shape, dtype and memory order of x.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    References
    ----------
    Ioffe, Szegedy (2015), "Batch Normalization", https://arxiv.org/abs/1502.03167

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    >>> fa.batch_norm(x, training=True, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> fa.batch_norm(x, training=True, eps=0.0, activation="relu")
    array([[0., 0.],
           [1., 1.]], dtype=float32)

    A residual connection, and a row that does not count:

    >>> fa.batch_norm(x, training=True, eps=0.0, activation="relu", residual=np.ones_like(x))
    array([[0., 0.],
           [2., 2.]], dtype=float32)
    >>> padded = np.array([[1, 10], [np.nan, np.nan], [3, 30]], dtype=np.float32)
    >>> fa.batch_norm(padded, training=True, eps=0.0, mask=[True, False, True])
    array([[-1., -1.],
           [ 0.,  0.],
           [ 1.,  1.]], dtype=float32)
    """
    y, _ = _quick.forward(
        x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation,
        convention, None, out, activation_params, residual, mask, sample_weight, comm,
    ) or forward(save_for_backward=None, **locals())  # fmt: skip
    return y


def batch_norm_forward(
    x: object,
    *,
    weight: object = None,
    bias: object = None,
    running_mean: object = None,
    running_var: object = None,
    training: object = True,
    momentum: object = MOMENTUM,
    eps: object = 1e-5,
    axis: object = 1,
    activation: object = None,
    activation_params: object = None,
    residual: object = None,
    mask: object = None,
    sample_weight: object = None,
    convention: object = "torch",
    comm: object = None,
    save_for_backward: object = "input",
    out: object = None,
) -> tuple[Any, Any]:
    """`batch_norm`, and what its gradient needs.

    Parameters
    ----------
    x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation, \
activation_params, residual, mask, sample_weight, convention, comm, out
        As for `batch_norm`. `out` may not overlap x and the residual, which the backward reads
        again. With ``training=False`` the statistics are constants in the backward.
    save_for_backward : str
        What the context keeps: "input", x, or "output", y, from which the backward finds x again
        (in-place activated BatchNorm). Then `out` may be x, and a network that keeps its
        activations anyway needs no more. Possible with activations that have an inverse (all but
        relu and its kin and those that are not monotone), in float32 and float64. Where y has lost
        more than 2^-16 of x (2^-24 in float64), because the activation is flat there or the weight
        small beside the bias, x is kept for those elements, for a channel that lost more than a
        sixteenth of them, or for the call where most channels did; ``ctx.saved`` says what. The
        other gradients then differ from the ordinary ones by about 1e-5, relatively.

    Returns
    -------
    y : numpy.ndarray
    ctx : BatchNormContext
        For `batch_norm_backward`; refers to x, or to y.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> y, ctx = fa.batch_norm_forward(x, activation="silu")
    >>> ctx.mean
    array([ 2., 20.])
    """
    if save_for_backward is None:  # which stands for no backward, inside
        checks.word("save_for_backward", None, SAVES)
    return _quick.forward(
        x, weight, bias, running_mean, running_var, training, momentum, eps, axis, activation,
        convention, save_for_backward, out, activation_params, residual, mask, sample_weight, comm,
    ) or forward(**locals())  # fmt: skip


# ---- backward ---------------------------------------------------------------------------------


def batch_norm_backward(dy: object, ctx: Any, *, out: object = None) -> BatchNormGradients:
    """Gradients of `batch_norm_forward`: two passes over (x, dy), nothing of their size allocated
    but the result.

    Parameters
    ----------
    dy : numpy.ndarray
        Gradient of the loss with respect to y; shape and dtype of x, any strides.
    ctx : BatchNormContext
    out : numpy.ndarray, optional
        Where to write the gradient of x. It may be dy itself, not x.

    Returns
    -------
    BatchNormGradients
        ``.x``, ``.weight``, ``.bias``, ``.residual``, ``.activation_params``.

    Raises
    ------
    TypeError, ValueError
        A bad argument, which the message names. Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastact as fa
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0], [8.0, 20.0]])
    >>> y, ctx = fa.batch_norm_forward(x, bias=np.zeros(2))
    >>> fa.batch_norm_backward(np.ones_like(x), ctx).bias
    array([3., 3.])
    """
    if type(ctx).__module__ == "fastact._dask":
        from fastact import _dask

        return _dask.backward(dy, ctx, out)
    quick = _quick.backward(dy, ctx, out)
    if quick is not None:
        return quick
    checked = check_context(ctx)
    if checked._comm is not None:
        return backward_on_all(dy, checked, out)
    return backward(dy, checked, out)
