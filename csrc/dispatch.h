/* Which instruction set runs. */
#ifndef FASTACT_DISPATCH_H
#define FASTACT_DISPATCH_H

#include "fastact.h"

/* The instruction sets of this build, best first; the table ends with a NULL name. */
typedef struct {
    const char *name;
    const fa_isa_table *table;
    int (*supported)(void); /* by this machine: CPU and operating system */
} fa_isa_entry;

extern const fa_isa_entry fa_isa_list[];

/* The active table; chosen once, at import. */
const fa_isa_table *fa_active(void);

/* NULL or "" chooses the best that the machine supports.  Returns 0, or -1 where the name is unknown or
 * the machine cannot run it: then nothing has changed. */
int fa_select_isa(const char *name);

#endif
