/* Runs an activation, forward or backward, over N-dimensional strided arrays on all threads. */
#ifndef FASTACT_ELEMENTWISE_H
#define FASTACT_ELEMENTWISE_H

#include "fastact.h"
#include "strided.h"

/* One direction of one activation.  Operands: [dy,] x, parameters..., then y, or dx [, dparameter].
 * Gated: [dy,] x, gate, then y, or dx, dgate. */
typedef struct {
    int activation; /* row of the table, or of the gated ones */
    int backward, gated;
    fa_dtype real; /* the floating dtype that is computed in */
} fa_op;

const fa_activation_info *fa_op_info(const fa_op *op);
int fa_op_data(const fa_op *op); /* inputs that are no parameters */

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
