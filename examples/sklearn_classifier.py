"""A scikit-learn classifier whose hidden layers are fused BatchNorm + activation.

It follows scikit-learn's rules (`check_estimator` passes), so it works in pipelines, grid searches
and cross-validation; any name of `fastact.activations` without required parameters will do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

import fastact as fa

Array = NDArray[Any]
checked: Callable[..., Any] = validate_data


class FusedMLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """A multi-layer perceptron trained by gradient descent with momentum.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    activation : str
        A name of `fastact.activations`.
    epochs, batch_size : int
        Passes over the data, and about how many samples make a step.
    learning_rate, momentum : float
        Of the steps; the rate falls linearly to 0.
    random_state : int, RandomState or None
        Initial weights and the order of the samples.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> FusedMLPClassifier(random_state=0).fit(x, y).score(x, y) > 0.95
    True
    """

    n_features_in_: int

    def __init__(
        self,
        hidden: tuple[int, ...] = (64,),
        activation: str = "silu",
        epochs: int = 40,
        batch_size: int = 64,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.random_state = random_state

    # ---- the network -------------------------------------------------------------------------

    def _build(self, rng: np.random.Generator) -> None:
        """Norms: one for the data as they come, then one with the activation a hidden layer."""
        sizes = [self.n_features_in_, *self.hidden, len(self.classes_)]
        self.weights_ = [rng.standard_normal((a, b)) / a**0.5 for a, b in itertools.pairwise(sizes)]
        self.norms_ = [fa.BatchNorm(sizes[0], affine=False, dtype=np.float64)] + [
            fa.BatchNorm(width, activation=self.activation, dtype=np.float64)
            for width in self.hidden
        ]
        self.bias_ = np.zeros(sizes[-1])

    def _parameters(self) -> list[Array]:
        norms = [p for norm in self.norms_[1:] for p in (norm.weight, norm.bias)]
        return [*self.weights_, *norms, self.bias_]

    def _forward(self, x: Array, training: bool) -> Array:
        self.norms_[0].train(training)
        inputs = [self.norms_[0](x)]
        for weight, norm in zip(self.weights_, self.norms_[1:], strict=False):
            norm.train(training)
            inputs.append(norm(inputs[-1] @ weight))
        if training:
            self._inputs = inputs
        logits: Array = inputs[-1] @ self.weights_[-1] + self.bias_
        return logits

    def _gradients(self, dlogits: Array) -> list[Array]:
        """In the order of `_parameters`."""
        dweights: list[Array] = []
        dnorms: list[Array] = []
        dy = dlogits
        for i in reversed(range(len(self.weights_))):
            dweights.insert(0, self._inputs[i].T @ dy)
            if i:
                grads = self.norms_[i].backward(dy @ self.weights_[i].T)
                dnorms[:0] = [grads.weight, grads.bias]
                dy = grads.x
        return [*dweights, *dnorms, dlogits.sum(axis=0)]

    def _train(self, x: Array, targets: NDArray[np.int_], rng: np.random.Generator) -> None:
        batches = max(1, len(x) // self.batch_size)
        velocity = [np.zeros_like(p) for p in self._parameters()]
        for epoch in range(self.epochs):
            rate = self.learning_rate * (1 - epoch / self.epochs)
            for rows in np.array_split(rng.permutation(len(x)), batches):
                p = softmax(self._forward(x[rows], training=True))
                p[np.arange(len(rows)), targets[rows]] -= 1
                gradients = self._gradients(p / len(rows))
                for value, v, gradient in zip(self._parameters(), velocity, gradients, strict=True):
                    v *= self.momentum
                    v -= rate * gradient
                    value += v
        del self._inputs

    # ---- scikit-learn's interface ------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike) -> FusedMLPClassifier:
        rows, y = checked(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: at least two classes are needed, got 1 class: {self.classes_[0]}")
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        self._build(rng)
        self._train(rows, targets, rng)
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        rows = checked(self, X, dtype=np.float64, reset=False)
        return softmax(self._forward(rows, training=False))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels


def softmax(logits: Array) -> Array:
    p: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def main() -> float:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score

    x, y = load_digits(return_X_y=True)
    scores = cross_val_score(FusedMLPClassifier(random_state=0), x, y, cv=3)
    print(f"digits, 3-fold cross-validation: {scores.mean():.2%} accuracy")
    return float(scores.mean())


if __name__ == "__main__":
    main()
