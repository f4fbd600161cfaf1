/* Statistics of parts of the data, made into those of the whole. */
#ifndef FASTACT_MERGE_H
#define FASTACT_MERGE_H

#include <stddef.h>

enum { FA_MERGE_ROWS = 4 }; /* mean and sum of squared deviations, each a double-double: high part, low part */

/* rows: [part][row][channel], total: [row][channel]; gives the sum of the counts.  Parts merge in their order;
 * those without values are passed over. */
double fa_merge_statistics(ptrdiff_t parts, ptrdiff_t channels, const double *counts, const double *rows,
                           double *total);

/* Multiplies or divides pairs[row][channel] of two rows, high parts and low parts: m2 of a variance, and back. */
void fa_scale_pairs(ptrdiff_t channels, double factor, int divide, double *pairs);

#endif
