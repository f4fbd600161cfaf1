"""Compiled: pointers in, a call without the GIL. The arrays are checked already; `table` holds the
statistics, (STATISTICS, channels) float64."""

from typing import Final

import numpy as np

from fastact._counted import Counted

STATISTICS: Final[int]
MEAN: Final[int]
VAR: Final[int]
RSTD: Final[int]
BOTH_PASSES: Final[int]
FIRST_PASS: Final[int]
SECOND_PASS: Final[int]

def out_of_memory() -> None: ...
def batch_norm_forward(
    x: np.ndarray,
    y: np.ndarray,
    axis: int,
    training: bool,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    activation: int,
    params: tuple[np.ndarray, ...],
    per_channel: bool,
    table: np.ndarray,
    counted: Counted | None = None,
    residual: np.ndarray | None = None,
) -> None: ...
def batch_norm_statistics(
    x: np.ndarray, axis: int, table: np.ndarray, counted: Counted | None = None
) -> None: ...

class Lost:
    def __init__(
        self,
        channels: list[np.ndarray | None],
        begin: np.ndarray,
        index: np.ndarray,
        x: np.ndarray,
    ) -> None: ...

def batch_norm_backward(
    passes: int,
    dy: np.ndarray,
    x: np.ndarray,
    dx: np.ndarray | None,
    axis: int,
    training: bool,
    total: float,
    activation: int,
    params: tuple[np.ndarray, ...],
    per_channel: bool,
    table: np.ndarray,
    sums: np.ndarray,
    counted: Counted | None = None,
    residual: np.ndarray | None = None,
    g: np.ndarray | None = None,
    from_output: bool = False,
    lost: Lost | None = None,
) -> None: ...
def has_inverse(activation: int) -> int: ...
def count_lost(
    x: np.ndarray,
    axis: int,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    activation: int,
    params: tuple[np.ndarray, ...],
    per_channel: bool,
    table: np.ndarray,
    tolerance: float,
    counts: np.ndarray,
    counted: Counted | None = None,
) -> None: ...
def recover(
    y: np.ndarray,
    x: np.ndarray,
    axis: int,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
    eps: float,
    activation: int,
    params: tuple[np.ndarray, ...],
    per_channel: bool,
    table: np.ndarray,
    lost: Lost | None = None,
) -> None: ...
def merge_statistics(counts: np.ndarray, rows: np.ndarray, total: np.ndarray) -> float: ...
def scale_pairs(pairs: np.ndarray, factor: float, divide: bool) -> None: ...
def param_gradient(
    dy: np.ndarray, x: np.ndarray, axis: int, activation: int, values: np.ndarray, sums: np.ndarray
) -> None: ...
def track(
    running: np.ndarray, batch: np.ndarray, keep: float, share: float, scale: float
) -> bool: ...
