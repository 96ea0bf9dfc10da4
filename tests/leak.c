/* Loses memory, which builds with AddressSanitizer must report (comm/mpi_leaks.c). */
#include <stdio.h>
#include <stdlib.h>

#include "comm/comm.h"

static void *volatile last;

int main(int argc, char **argv)
{
    fail_t fail = {0};
    if (comm_start(&argc, &argv, &fail) != 0) {
        fprintf(stderr, "%s\n", fail.message);
        return 2;
    }
    last = malloc(100);
    last = NULL;
    comm_stop();
    puts("nothing was reported");
    return 0;
}
