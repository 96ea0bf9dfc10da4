/* A library to preload (avx2_host.sh): programs find a CPU that has AVX2 and FMA, and nothing of AVX-512, AMX or AVX-VNNI.
 *
 * Linux lets a process be interrupted by the CPUID instruction (arch_prctl, ARCH_SET_CPUID), as hypervisors do; the answer is
 * the CPU's own without these bits. Bits by Intel's "Architecture Instruction Set Extensions Programming Reference", CPUID
 * leaf 7. CHOIR_AVX2_HOST=amd: the CPU also says that it is AMD's, family 19h model 21h (Zen 3). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012 }; /* ARCH_SET_CPUID of Linux' asm/prctl.h */

enum { SIGNATURE_LEAF = 1, FEATURE_LEAF = 7, AMX_TILE_LEAF = 0x1d, AMX_PRODUCT_LEAF = 0x1e };
#define AMD_SIGNATURE_LEAF 0x80000001u
#define ZEN_3 0x00a20f12u

#define BIT(n) (1u << (n))
/* AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL */
#define HIDDEN_EBX (BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31))
/* AVX512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
#define HIDDEN_ECX (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
/* AVX512 4VNNIW, 4FMAPS, VP2INTERSECT; AMX-BF16; AVX512-FP16; AMX-TILE, AMX-INT8 */
#define HIDDEN_EDX (BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25))

typedef struct answer {
    uint32_t eax, ebx, ecx, edx;
} answer_t;

static bool amd;

static int let_cpuid(unsigned long allowed)
{
    return (int)syscall(SYS_arch_prctl, SET_CPUID, allowed);
}

static answer_t ask(uint32_t leaf, uint32_t subleaf)
{
    answer_t a;
    let_cpuid(1);
    __asm__ volatile("cpuid"
                     : "=a"(a.eax), "=b"(a.ebx), "=c"(a.ecx), "=d"(a.edx)
                     : "a"(leaf), "c"(subleaf));
    let_cpuid(0);
    return a;
}

static answer_t answer(uint32_t leaf, uint32_t subleaf)
{
    answer_t a = ask(leaf, subleaf);
    if (leaf == FEATURE_LEAF && subleaf == 0) {
        a.ebx &= ~HIDDEN_EBX;
        a.ecx &= ~HIDDEN_ECX;
        a.edx &= ~HIDDEN_EDX;
    }
    if ((leaf == FEATURE_LEAF && subleaf > 0) || leaf == AMX_TILE_LEAF || leaf == AMX_PRODUCT_LEAF)
        memset(&a, 0, sizeof a);
    if (!amd)
        return a;
    if (leaf == 0 || leaf == 0x80000000u) { /* "AuthenticAMD" */
        memcpy(&a.ebx, "Auth", 4);
        memcpy(&a.edx, "enti", 4);
        memcpy(&a.ecx, "cAMD", 4);
    }
    if (leaf == SIGNATURE_LEAF || leaf == AMD_SIGNATURE_LEAF)
        a.eax = ZEN_3;
    return a;
}

/* What the program does about its own faults. */
static struct sigaction programs;

typedef int set_action_t(int, const struct sigaction *, struct sigaction *);

static int set_action(int number, const struct sigaction *action, struct sigaction *old)
{
    set_action_t *next;
    *(void **)&next = dlsym(RTLD_NEXT, "sigaction");
    return next(number, action, old);
}

static void own_fault(int number, siginfo_t *info, void *context)
{
    if ((programs.sa_flags & SA_SIGINFO) != 0) {
        programs.sa_sigaction(number, info, context);
    } else if (programs.sa_handler != SIG_DFL && programs.sa_handler != SIG_IGN) {
        programs.sa_handler(number);
    } else {
        set_action(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        if (info->si_code <= 0) /* sent; else it comes again */
            raise(number);
    }
}

static void interrupted(int number, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)r[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0xa2) { /* no CPUID */
        own_fault(number, info, context);
        return;
    }
    answer_t a = answer((uint32_t)r[REG_RAX], (uint32_t)r[REG_RCX]);
    r[REG_RAX] = a.eax;
    r[REG_RBX] = a.ebx;
    r[REG_RCX] = a.ecx;
    r[REG_RDX] = a.edx;
    r[REG_RIP] += 2;
}

/* In place of the C library's: the program's action is kept for its own faults. */
int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
    if (number != SIGSEGV)
        return set_action(number, action, old);
    const struct sigaction before = programs;
    if (action != NULL)
        programs = *action;
    if (old != NULL)
        *old = before;
    return 0;
}

void (*signal(int number, void (*handler)(int)))(int)
{
    struct sigaction old;
    const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    return sigaction(number, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

__attribute__((constructor(101))) static void begin(void)
{
    const char *vendor = getenv("CHOIR_AVX2_HOST");
    struct sigaction action = {.sa_sigaction = interrupted, .sa_flags = SA_SIGINFO | SA_NODEFER};
    amd = vendor != NULL && strcmp(vendor, "amd") == 0;
    if (set_action(SIGSEGV, &action, NULL) != 0 || let_cpuid(0) != 0) {
        fprintf(stderr, "avx2_host: this CPU or Linux does not let a process answer for CPUID\n");
        _exit(1);
    }
}
