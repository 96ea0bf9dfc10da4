#include "launch/before_end.h"

#include <stdatomic.h>
#include <stddef.h>

#include "launch/terminal.h"

static void (*_Atomic own)(void);

void before_end(void)
{
    terminal_restore();
    void (*call)(void) = atomic_load(&own);
    if (call != NULL)
        call();
}

void before_end_call(void (*call)(void))
{
    atomic_store(&own, call);
}
