/* Runs an activation, forward or backward, over N-dimensional strided arrays on all threads. */
#ifndef FASTACT_ELEMENTWISE_H
#define FASTACT_ELEMENTWISE_H

#include "fastact.h"
#include "strided.h"

/* One direction of one activation.  Operands: [dy,] x, parameters..., then y, or dx [, dparameter]. */
typedef struct {
    int activation; /* row of the table */
    int backward;
    fa_dtype real; /* FA_FLOAT32 or FA_FLOAT64: the dtype that is computed in */
} fa_op;

typedef struct {
    char *data;
    fa_dtype dtype;
    const ptrdiff_t *strides; /* bytes; 0 where broadcast */
} fa_operand;

int fa_op_inputs(const fa_op *op);   /* parameters included */
int fa_op_operands(const fa_op *op); /* inputs and outputs */

/* Every operand has `ndim` strides.  An output may be an input's memory exactly, never overlap otherwise.
 * A dparameter with NULL data is not computed. */
void fa_elementwise(const fa_op *op, int ndim, const ptrdiff_t *shape, const fa_operand *operands);

/* A NumPy ufunc inner loop; data points to a fa_op whose dtypes are `real` (parameters: see fa_loop). */
typedef struct {
    fa_op op;
    fa_dtype param_dtype;
} fa_loop;
void fa_ufunc_loop(char **args, const ptrdiff_t *dimensions, const ptrdiff_t *steps, void *data);

#endif
