cimport numpy as cnp

from fastact._runtime cimport *

cdef fa_view view_of(cnp.ndarray a, int axis)
cdef fa_statistics statistics_of(cnp.ndarray table)
cdef fa_batchnorm problem(cnp.ndarray x, int axis, int activation, tuple params, bint per_channel)
cdef void update_running(cnp.ndarray running, const double *batch, double keep, double share, double scale)
