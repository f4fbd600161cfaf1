#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cgroup.h"

#if defined(_WIN32)
#include <malloc.h>
#include <windows.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

/* A block is its header and, 64 bytes on, the data.  Large blocks are pages straight from the system, which
 * may be kept when they are freed; small ones are plain memory of the C library.  The header says which.
 *
 * Large data begin at a page, the header is the end of the page before: a processor takes a load for
 * dependent on a pending store if their addresses agree modulo 4 KiB.  Data 64 bytes into a page, written
 * from an input 16 bytes into another (where the C library puts large ones), made relu take 1.5 times as
 * long. */
typedef struct block block;
struct block {
    size_t capacity; /* header included */
    int bin;         /* blocks of a bin have the same capacity; PLAIN */
    unsigned generation;
    block *newer, *older;           /* of all kept blocks, by the time they were freed */
    block *same_newer, *same_older; /* of those in the same bin */
};

enum { HEADER = 64, PLAIN = -1, STEPS = 16, BINS = 64 * STEPS };
_Static_assert(sizeof(block) <= HEADER, "the header must fit in front of the data");

static struct {
    fa_pool_stats stats;
    block *newest, *oldest;
    block *bin[BINS];    /* the newest of each */
    unsigned generation; /* how many forks lie between this process and the first */
} pool;

/* What may be kept now, 0 while the pool is off: read without the lock. */
static _Atomic size_t allowance;

/* ---- the lock: held for a few assignments, never around a call to the system ----------------------- */

#if defined(_WIN32)
static SRWLOCK mutex = SRWLOCK_INIT;

static void lock(void)
{
    AcquireSRWLockExclusive(&mutex);
}

static void unlock(void)
{
    ReleaseSRWLockExclusive(&mutex);
}
#else
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void lock(void)
{
    pthread_mutex_lock(&mutex);
}

static void unlock(void)
{
    pthread_mutex_unlock(&mutex);
}
#endif

/* ---- pages from the system ------------------------------------------------------------------------- */

#if defined(_WIN32)
enum { NEW_PAGES_ARE_ZERO = 0 };

static void *new_pages(size_t bytes)
{
    return _aligned_malloc(bytes, HEADER);
}

static void give_back(void *pages, size_t bytes)
{
    (void)bytes;
    _aligned_free(pages);
}

static void *plain_malloc(size_t bytes)
{
    return _aligned_malloc(bytes, HEADER);
}

static void plain_free(void *memory)
{
    _aligned_free(memory);
}

static size_t page_size(void)
{
    return 4096;
}
#else
enum { NEW_PAGES_ARE_ZERO = 1 };

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

static void *map(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

#if defined(MADV_HUGEPAGE)
/* With huge pages the first touch takes a tenth to a fifth of the time; a block that starts at the boundary of
 * one has the most of them. */
static void *new_pages(size_t bytes)
{
    const size_t huge = 2 << 20;
    if (bytes < huge)
        return map(bytes);
    char *pages = map(bytes + huge);
    if (!pages)
        return NULL;
    size_t before = -(uintptr_t)pages % huge;
    if (before)
        munmap(pages, before);
    munmap(pages + before + bytes, huge - before);
    madvise(pages + before, bytes, MADV_HUGEPAGE); /* a hint: it may well be refused */
    return pages + before;
}
#else
static void *new_pages(size_t bytes)
{
    return map(bytes);
}
#endif

static void give_back(void *pages, size_t bytes)
{
    munmap(pages, bytes);
}

static void *plain_malloc(size_t bytes)
{
    return aligned_alloc(HEADER, bytes);
}

static void plain_free(void *memory)
{
    free(memory);
}

static size_t page_size(void)
{
    long bytes = sysconf(_SC_PAGESIZE);
    return bytes > 0 ? (size_t)bytes : 4096;
}
#endif

/* ---- sizes ----------------------------------------------------------------------------------------- */

static int floor_log2(size_t n)
{
    int power = 0;
    while (n >>= 1)
        power++;
    return power;
}

static size_t round_up(size_t bytes, size_t step)
{
    return (bytes + step - 1) / step * step;
}

/* Capacities are a sixteenth of a power of two apart (or a page): a block is at most 1/16 too long, and what
 * is too long about it is address space, for pages that nobody touches cost none. */
static size_t capacity_for(size_t size)
{
    size_t needed = size + HEADER, step = ((size_t)1 << floor_log2(needed)) / STEPS, page = page_size();
    return round_up(needed, step > page ? step : page);
}

static int bin_of(size_t capacity)
{
    int power = floor_log2(capacity);
    return power * STEPS + (int)(capacity / (((size_t)1 << power) / STEPS)) - STEPS;
}

/* ---- kept blocks; the lock is held ----------------------------------------------------------------- */

static void insert(block *b)
{
    block **head = &pool.bin[b->bin];
    b->newer = b->same_newer = NULL;
    b->older = pool.newest;
    b->same_older = *head;
    if (b->older)
        b->older->newer = b;
    else
        pool.oldest = b;
    if (b->same_older)
        b->same_older->same_newer = b;
    pool.newest = *head = b;
    pool.stats.kept += b->capacity;
    pool.stats.blocks_kept++;
}

static void withdraw(block *b)
{
    *(b->newer ? &b->newer->older : &pool.newest) = b->older;
    *(b->older ? &b->older->newer : &pool.oldest) = b->newer;
    *(b->same_newer ? &b->same_newer->same_older : &pool.bin[b->bin]) = b->same_older;
    if (b->same_older)
        b->same_older->same_newer = b->same_newer;
    pool.stats.kept -= b->capacity;
    pool.stats.blocks_kept--;
}

/* Takes the blocks that were freed longest ago, until no more than `bytes` are kept; they are chained by
 * `older`, for release() after the lock is left. */
static block *evict_to(size_t bytes)
{
    block *chain = NULL;
    while (pool.stats.kept > bytes) {
        block *b = pool.oldest;
        withdraw(b);
        b->older = chain;
        chain = b;
    }
    return chain;
}

/* ---- blocks ---------------------------------------------------------------------------------------- */

static size_t release(block *chain)
{
    size_t bytes = 0;
    while (chain) {
        block *next = chain->older;
        bytes += chain->capacity;
        give_back((char *)chain + HEADER - page_size(), chain->capacity + page_size());
        chain = next;
    }
    return bytes;
}

static void *data_of(block *b)
{
    return b ? (char *)b + HEADER : NULL;
}

static block *block_of(void *data)
{
    return (block *)((char *)data - HEADER);
}

static block *plain_block(size_t size)
{
    size_t capacity = round_up(size + HEADER, HEADER);
    block *b = plain_malloc(capacity);
    if (b)
        *b = (block){.capacity = capacity, .bin = PLAIN};
    return b;
}

/* Out of memory, what is kept goes back first. */
static block *new_block(size_t capacity)
{
    size_t page = page_size();
    char *pages = new_pages(capacity + page);
    if (!pages && fa_pool_trim())
        pages = new_pages(capacity + page);
    if (!pages)
        return NULL;
    block *b = (block *)(pages + page - HEADER);
    *b = (block){.capacity = capacity, .bin = bin_of(capacity)};
    return b;
}

static block *kept_block(int bin)
{
    lock();
    block *b = pool.bin[bin];
    if (b)
        withdraw(b);
    unlock();
    return b;
}

static void count_in_use(block *b, int recycled)
{
    lock();
    b->generation = pool.generation;
    pool.stats.in_use += b->capacity;
    pool.stats.blocks_in_use++;
    *(recycled ? &pool.stats.hits : &pool.stats.misses) += 1;
    unlock();
}

static block *large_block(size_t capacity, int *recycled)
{
    block *b = kept_block(bin_of(capacity));
    *recycled = b != NULL;
    if (!b)
        b = new_block(capacity);
    if (b)
        count_in_use(b, *recycled);
    return b;
}

static void *allocate(size_t size, int zeroed)
{
    if (size > PTRDIFF_MAX / 2)
        return NULL;
    int recycled = 0;
    block *b = size < FA_POOL_THRESHOLD ? plain_block(size) : large_block(capacity_for(size), &recycled);
    if (b && zeroed && (recycled || b->bin == PLAIN || !NEW_PAGES_ARE_ZERO))
        memset(data_of(b), 0, size);
    return data_of(b);
}

/* A block that was handed out before a fork shares its pages with the parent: to write to them again would
 * copy them, which costs more than new ones.  It is not kept. */
static void reclaim(block *b)
{
    lock();
    pool.stats.in_use -= b->capacity;
    pool.stats.blocks_in_use--;
    size_t allowed = atomic_load(&allowance), before = pool.stats.blocks_kept + 1;
    block *chain = b;
    b->older = NULL;
    if (b->generation == pool.generation && b->capacity <= allowed) {
        insert(b);
        chain = evict_to(allowed);
    }
    pool.stats.evictions += before - pool.stats.blocks_kept;
    unlock();
    release(chain);
}

/* ---- the allocator --------------------------------------------------------------------------------- */

int fa_pool_serves(size_t size)
{
    return size >= FA_POOL_THRESHOLD && size <= atomic_load(&allowance);
}

void *fa_pool_malloc(void *context, size_t size)
{
    (void)context;
    return allocate(size, 0);
}

void *fa_pool_calloc(void *context, size_t count, size_t size)
{
    (void)context;
    return size && count > SIZE_MAX / size ? NULL : allocate(count * size, 1);
}

void fa_pool_free(void *context, void *data, size_t size)
{
    (void)context;
    (void)size; /* the header knows better: a caller may have changed the array's shape */
    if (!data)
        return;
    block *b = block_of(data);
    if (b->bin == PLAIN)
        plain_free(b);
    else
        reclaim(b);
}

/* Stays in place while at least half of the block is used. */
void *fa_pool_realloc(void *context, void *data, size_t size)
{
    if (!data)
        return fa_pool_malloc(context, size);
    size_t room = block_of(data)->capacity - HEADER;
    if (size <= room && size >= room / 2)
        return data;
    void *moved = allocate(size, 0);
    if (!moved)
        return NULL;
    memcpy(moved, data, size < room ? size : room);
    fa_pool_free(context, data, room);
    return moved;
}

/* ---- settings -------------------------------------------------------------------------------------- */

fa_pool_stats fa_pool_get_stats(void)
{
    lock();
    fa_pool_stats stats = pool.stats;
    unlock();
    return stats;
}

void fa_pool_configure(size_t limit, int enabled)
{
    lock();
    pool.stats.limit = limit;
    pool.stats.enabled = enabled;
    atomic_store(&allowance, enabled ? limit : 0);
    block *chain = evict_to(atomic_load(&allowance));
    unlock();
    release(chain);
}

size_t fa_pool_trim(void)
{
    lock();
    block *chain = evict_to(0);
    unlock();
    return release(chain);
}

/* The memory that this process may use, or 0 where the system does not say. */
static size_t usable_memory(void)
{
    size_t usable = 0;
#if defined(_SC_PHYS_PAGES)
    long pages = sysconf(_SC_PHYS_PAGES);
    usable = pages > 0 ? (size_t)pages * page_size() : 0;
#endif
    const size_t limit = fa_cgroup_memory("");
    if (limit && (!usable || limit < usable))
        usable = limit;
    return usable;
}

/* A quarter of the memory, so that what waits never crowds out what works, and at most 2 GiB: fifty results
 * of (32, 64, 56, 56), all free between two steps of a training loop, need 1.3. */
size_t fa_pool_default_limit(void)
{
    size_t quarter = usable_memory() / 4, most = (size_t)1 << (sizeof(size_t) > 4 ? 31 : 28);
    return quarter && quarter < most ? quarter : most;
}

#if !defined(_WIN32)
static void before_fork(void)
{
    lock();
}

static void after_fork_in_parent(void)
{
    unlock();
}

/* The child starts empty: the parent's kept blocks would be copied when written to. */
static void after_fork_in_child(void)
{
    pool.generation++;
    block *chain = evict_to(0);
    pool.stats.hits = pool.stats.misses = pool.stats.evictions = 0;
    unlock();
    release(chain);
}
#endif

void fa_pool_init(void)
{
    fa_pool_configure(fa_pool_default_limit(), 1);
#if !defined(_WIN32)
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
#endif
}
