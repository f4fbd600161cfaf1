/* The entry of libFuzzer (clang -fsanitize=fuzzer); AFL++ takes the same through its driver. */
#include <stdio.h>
#include <stdlib.h>

#include "dispatch.h"
#include "memory.h"
#include "native.h"
#include "parallel.h"
#include "pool.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fa_select_isa(getenv("FASTACT_ISA"));
    fa_memory_init();
    fa_parallel_init();
    fa_pool_init();
    fa_set_num_threads(4);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    verdict wrong = run_case(bytes, n);
    if (wrong) {
        fprintf(stderr, "%s\n", wrong);
        abort();
    }
    return 0;
}
