/* Only in builds with AddressSanitizer: leaks are looked for while MPI is still there.
 *
 * What MPI's plug-ins keep is reachable until MPI_Finalize unloads them. After that it would be reported, with
 * stacks that name no module, and only slow, complete stacks of all allocations could tell some of it from
 * leaks of ours. What is lost while MPI starts is not reported at all. */
#include <mpi.h>
#include <sanitizer/lsan_interface.h>

#define EXPORTED __attribute__((visibility("default")))

/* What threads of MPI's own lose, and what it loses later; nothing of ours is ever called from there. */
EXPORTED const char *__lsan_default_suppressions(void)
{
    return "leak:libmpi.so\nleak:libopen-rte.so\nleak:libopen-pal.so\nleak:/openmpi/\nleak:libpmix.so\n"
           "leak:libevent\n";
}

/* Thread-local storage is not searched: where a thread of MPI's is about to end, LeakSanitizer crashes in it ("Tracer
 * caught signal 11"). Nothing of ours is kept there alone. */
EXPORTED const char *__lsan_default_options(void)
{
    return "print_suppressions=0:use_tls=0";
}

EXPORTED int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    __lsan_disable();
    int status = PMPI_Init_thread(argc, argv, required, provided);
    __lsan_enable();
    return status;
}

/* Loads plug-ins that were not chosen, and MPI_T_finalize unloads them. */
EXPORTED int MPI_T_init_thread(int required, int *provided)
{
    __lsan_disable();
    int status = PMPI_T_init_thread(required, provided);
    __lsan_enable();
    return status;
}

/* Ends the process when something leaks. There is no second search when it exits. */
EXPORTED int MPI_Finalize(void)
{
    __lsan_do_leak_check();
    return PMPI_Finalize();
}
