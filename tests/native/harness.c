/* Runs cases on one instruction set and prints a digest of the results.
 *
 *     harness ISA COUNT          random cases
 *     harness ISA FILE...        those in files, as a fuzzer keeps them
 *
 * Exit status 1: a case is wrong, and its bytes are printed; 2: the machine cannot run the instruction set. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "dispatch.h"
#include "memory.h"
#include "native.h"
#include "parallel.h"
#include "pool.h"

enum { LENGTH = 160, MOST_THREADS = 8 };

static void complain(verdict wrong, const uint8_t *bytes, size_t n)
{
    printf("%s:\n", wrong);
    for (size_t i = 0; i < n; i++)
        printf("%02x", bytes[i]);
    printf("\n");
}

static int run(const uint8_t *bytes, size_t n)
{
    verdict wrong = run_case(bytes, n);
    if (wrong)
        complain(wrong, bytes, n);
    return wrong != NULL;
}

static int run_random(uint64_t number)
{
    uint8_t bytes[LENGTH];
    for (uint64_t i = 0; i < LENGTH; i++)
        bytes[i] = (uint8_t)mix(number * LENGTH + i + 1);
    return run(bytes, LENGTH);
}

static int run_file(const char *path)
{
    static uint8_t bytes[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file)
        return 1;
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    return run(bytes, n);
}

int main(int argc, char **argv)
{
    int wrong = 0;
    if (argc < 3 || fa_select_isa(argv[1]) < 0)
        return 2;
    fa_memory_init();
    fa_parallel_init();
    fa_pool_init();
    fa_set_num_threads(MOST_THREADS);
    char *end;
    const unsigned long long count = strtoull(argv[2], &end, 10);
    for (unsigned long long i = 0; !*end && i < count; i++)
        wrong += run_random(i);
    for (int k = 2; *end && k < argc; k++)
        wrong += run_file(argv[k]);
    for (int kind = 0; kind < KINDS; kind++)
        printf("%s %016" PRIx64 "\n", kind_names[kind], digests[kind]);
    return wrong > 0;
}
