#include "comm/watch/stack.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "comm/watch/process.h"

enum { MAX_FRAMES = 24, SHOWN_FRAMES = 8, HANDLER_FRAMES = 2, WAIT_MS = 1000 };

/* A signal handler can only store its result here. */
static void *frames[MAX_FRAMES];
static atomic_int n_frames;

static void take_stack(int number)
{
    (void)number;
    atomic_store(&n_frames, backtrace(frames, MAX_FRAMES));
}

static bool runs(int thread)
{
    return process_look(thread).state == 'R';
}

/* The main thread when it runs; it may also wait for a thread of its team that runs. */
static int find_busy(int main_thread)
{
    int own = (int)syscall(SYS_gettid), found = main_thread;
    if (runs(main_thread))
        return main_thread;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks != NULL && (task = readdir(tasks)) != NULL;) {
        int thread = atoi(task->d_name);
        if (thread > 0 && thread != own && runs(thread)) {
            found = thread;
            break;
        }
    }
    if (tasks != NULL)
        closedir(tasks);
    return found;
}

/* ---- Names ----------------------------------------------------------------------------------- */

/* The name of the function around an offset, from the symbols of an ELF file of 64 bits: also those
 * that are not exported, unless they were stripped. */
static void find_symbol(
    const char *elf, size_t bytes, uint64_t offset, char *name, size_t name_bytes)
{
    const Elf64_Ehdr *header = (const void *)elf;
    if (bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_shoff > bytes ||
        (bytes - header->e_shoff) / sizeof(Elf64_Shdr) < header->e_shnum)
        return;
    const Elf64_Shdr *sections = (const void *)(elf + header->e_shoff);
    for (size_t i = 0; i < header->e_shnum; i++) {
        const Elf64_Shdr *table = &sections[i];
        if (table->sh_type != SHT_SYMTAB || table->sh_link >= header->e_shnum)
            continue;
        const Elf64_Shdr *names = &sections[table->sh_link];
        if (table->sh_offset > bytes || table->sh_size > bytes - table->sh_offset ||
            names->sh_offset > bytes || names->sh_size > bytes - names->sh_offset)
            return;
        const Elf64_Sym *symbols = (const void *)(elf + table->sh_offset);
        for (size_t s = 0; s < table->sh_size / sizeof *symbols; s++)
            if (ELF64_ST_TYPE(symbols[s].st_info) == STT_FUNC && offset >= symbols[s].st_value &&
                offset < symbols[s].st_value + symbols[s].st_size &&
                symbols[s].st_name < names->sh_size)
                snprintf(name, name_bytes, "%.*s", (int)(names->sh_size - symbols[s].st_name),
                    elf + names->sh_offset + symbols[s].st_name);
    }
}

static void name_from_file(const char *path, uint64_t offset, char *name, size_t name_bytes)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    if (fstat(file, &status) == 0 && status.st_size > 0) {
        size_t bytes = (size_t)status.st_size;
        void *elf = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, file, 0);
        if (elf != MAP_FAILED) {
            find_symbol(elf, bytes, offset, name, name_bytes);
            munmap(elf, bytes);
        }
    }
    close(file);
}

/* frame: a return address, which may already belong to what follows the call. */
static void name_frame(void *frame, bool interrupted, char *name, size_t name_bytes)
{
    Dl_info info;
    uintptr_t address = (uintptr_t)frame - !interrupted;
    snprintf(name, name_bytes, "%p", frame);
    if (dladdr((void *)address, &info) == 0 || info.dli_fname == NULL)
        return;
    uint64_t offset = address - (uintptr_t)info.dli_fbase;
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(name, name_bytes, "%s+0x%llx", slash == NULL ? info.dli_fname : slash + 1,
        (unsigned long long)offset);
    if (info.dli_sname != NULL)
        snprintf(name, name_bytes, "%s", info.dli_sname);
    /* The program's own file may have been named by a relative path. */
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    slash = strrchr(path, '/');
    if (slash != NULL && strstr(info.dli_fname, slash + 1) != NULL)
        name_from_file("/proc/self/exe", offset, name, name_bytes);
    else
        name_from_file(info.dli_fname, offset, name, name_bytes);
}

void stack_of_busy(int main_thread, char *text, size_t text_bytes)
{
    struct sigaction ours, before;
    void *warm[1];
    text[0] = 0;
    /* Loads the library that backtrace needs; a signal handler may not do that. */
    backtrace(warm, 1);
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = take_stack;
    ours.sa_flags = SA_RESTART;
    atomic_store(&n_frames, 0);
    if (sigaction(SIGURG, &ours, &before) != 0)
        return;
    syscall(SYS_tgkill, getpid(), find_busy(main_thread), SIGURG);
    for (int ms = 0; ms < WAIT_MS && atomic_load(&n_frames) == 0; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    sigaction(SIGURG, &before, NULL);
    size_t used = 0;
    int n = atomic_load(&n_frames);
    for (int i = HANDLER_FRAMES; i < n && i < HANDLER_FRAMES + SHOWN_FRAMES; i++) {
        char name[160];
        name_frame(frames[i], i == HANDLER_FRAMES, name, sizeof name);
        int added = snprintf(text + used, text_bytes - used, "%s%s", used == 0 ? "" : " < ", name);
        if (added < 0 || (size_t)added >= text_bytes - used)
            break;
        used += (size_t)added;
    }
}
