/* What an activation takes: the drivers decide by it which memory traffic is worth avoiding. */
#ifndef FASTACT_ACTIVATION_COST_H
#define FASTACT_ACTIVATION_COST_H

#include "fastact.h"
#include "strided.h"

/* Nanoseconds an element of its kernels, on one thread, in the caches: measured when it is asked for first. */
float fa_activation_cost(const fa_activation_kernels *kernels, fa_dtype real, int activation, int backward);

#endif
