/* A digest of what every kernel of one instruction set makes of fixed inputs: kernel_bits.py builds this
 * for several, other architectures among them, and compares.  KERNELS names the table, fa_isa_*. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fastact.h"

extern const fa_isa_table KERNELS;
enum { N = 1 << 17 };

static const struct {
    const char *name;
    int nparams;
    double param[2];
} rows[] = {
#define FA_NONE 0
#define FA_SCALAR(name, value) value
#define FA_REQUIRED(name) 0.25
#define FA_LEARNED(name) 0.25
#define FA_TWO(a, b) a, b
#define FA_ROW(name, nparams, params, max_ulp, formula, source) {#name, nparams, {params}},
#include "activations.def"
};
static const char *const gates[] = {
#define FA_GATED_ROW(name, max_ulp, formula, source) #name,
#include "activations.def"
};

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Half random bit patterns, half ordinary numbers; dy is ordinary. */
static double x64[N], y64[N], z64[N], ordinary[N];
static float x32[N], y32[N], z32[N], ordinary32[N];
static uint16_t x16[N], y16[N];

static void make_inputs(void) {
    for (uint64_t i = 0; i < N; i++) {
        uint64_t bits = mix(i + 1);
        uint32_t word = (uint32_t)bits;
        ordinary[i] = ((double)(int64_t)(bits >> 40) - 8388608.0) / 262144.0; /* -32 to 32 */
        ordinary32[i] = (float)ordinary[i];
        memcpy(&x64[i], &bits, 8);
        memcpy(&x32[i], &word, 4);
        x16[i] = (uint16_t)i;
        if (i % 2) x64[i] = ordinary[i], x32[i] = ordinary32[i];
    }
}

static uint64_t digest64(const double *y, int n) {
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        uint64_t bits = 1;
        if (y[i] == y[i]) memcpy(&bits, &y[i], 8);
        sum = mix(sum + bits + (uint64_t)i);
    }
    return sum;
}

static uint64_t digest32(const float *y, int n) {
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits = 1;
        if (y[i] == y[i]) memcpy(&bits, &y[i], 4);
        sum = mix(sum + bits + (uint64_t)i);
    }
    return sum;
}

static void half(const char *what, int k, int backward, const fa_half_kernels *format,
                 const double *const *params) {
    const fa_activation_kernels *f = &KERNELS.half.activation[k];
    static double one[N];
    for (int i = 0; i < N; i++) one[i] = 1;
    format->widen(x16, x64, N / 2);
    if (backward)
        f->backward[FA_UNIFORM](one, x64, y64, N / 2, params);
    else
        f->forward[FA_UNIFORM](x64, y64, N / 2, params);
    format->narrow(y64, y16, N / 2);
    format->widen(y16, y64, N / 2);
    printf("%s %s %s %016llx\n", rows[k].name, backward ? "backward" : "forward", what,
           (unsigned long long)digest64(y64, N / 2));
}

static void activation(int k) {
    const double *params[2] = {&rows[k].param[0], &rows[k].param[1]};
    for (int backward = 0; backward < 2; backward++) {
        const char *direction = backward ? "backward" : "forward";
        make_inputs();
        const fa_activation_kernels *f = &KERNELS.f32.activation[k], *g = &KERNELS.f64.activation[k];
        if (backward) {
            f->backward[FA_UNIFORM](ordinary32, x32, y32, N, params);
            g->backward[FA_UNIFORM](ordinary, x64, y64, N, params);
        } else {
            f->forward[FA_UNIFORM](x32, y32, N, params);
            g->forward[FA_UNIFORM](x64, y64, N, params);
        }
        printf("%s %s float32 %016llx\n", rows[k].name, direction,
               (unsigned long long)digest32(y32, N));
        printf("%s %s float64 %016llx\n", rows[k].name, direction,
               (unsigned long long)digest64(y64, N));
        half("float16", k, backward, &KERNELS.f16, params);
        half("bfloat16", k, backward, &KERNELS.bf16, params);
    }
}

static void gated(int k) {
    make_inputs();
    const fa_gated_kernels *f = &KERNELS.f32.gated[k], *g = &KERNELS.f64.gated[k];
    f->forward(ordinary32, x32, y32, N);
    g->forward(ordinary, x64, y64, N);
    printf("%s forward %016llx %016llx\n", gates[k], (unsigned long long)digest32(y32, N),
           (unsigned long long)digest64(y64, N));
    f->backward(ordinary32, ordinary32, x32, y32, z32, N);
    g->backward(ordinary, ordinary, x64, y64, z64, N);
    printf("%s backward %016llx %016llx %016llx %016llx\n", gates[k],
           (unsigned long long)digest32(y32, N), (unsigned long long)digest32(z32, N),
           (unsigned long long)digest64(y64, N), (unsigned long long)digest64(z64, N));
}

/* BatchNorm's sums over a channel: lanes, blocks, their tree. */
static void sums(const char *dtype, const fa_batchnorm_kernels *kernels, const void *x, size_t size) {
    static double parts[N / FA_BLOCK * FA_SUMS * 2];
    static fa_strip constants;
    double mean[2], var[2], shift = kernels->run_shift(x);
    for (int i = 0; i < FA_LANES; i++) constants.shift[i] = shift;
    for (int b = 0; b < N / FA_BLOCK; b++) {
        const char *block = (const char *)x + (size_t)b * FA_BLOCK * size;
        fa_lanes lanes = {0};
        fa_span span = {.x = block, .rows = 1, .strips = FA_BLOCK / FA_LANES, .constants = &constants,
                        .ahead = {block, block}};
        kernels->moments(&lanes, 1, &span);
        kernels->fold_run(&lanes, 2, fa_part(parts, 1, b, 0, 0), 1);
    }
    kernels->merge(parts, 1, N / FA_BLOCK, 1, 2);
    kernels->statistics(parts, 1, &shift, N, 1, (double *[]){mean, mean + 1}, (double *[]){var, var + 1});
    printf("statistics %s %a %a %a %a\n", dtype, mean[0], mean[1], var[0], var[1]);
}

int main(void) {
    for (int k = 0; k < FA_ACTIVATION_COUNT; k++) activation(k);
    for (int k = 0; k < FA_GATED_COUNT; k++) gated(k);
    make_inputs();
    sums("float32", &KERNELS.f32.batchnorm, ordinary32, sizeof *ordinary32);
    sums("float64", &KERNELS.f64.batchnorm, ordinary, sizeof *ordinary);
    return 0;
}
