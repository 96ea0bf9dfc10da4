#include "engine/kernels/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <string.h>

typedef __typeof__(cblas_sgemm) sgemm_fn;
typedef __typeof__(cblas_dgemm) dgemm_fn;
typedef void sbgemm_fn(CBLAS_ORDER, CBLAS_TRANSPOSE, CBLAS_TRANSPOSE, blasint, blasint, blasint,
    float, const bfloat16 *, blasint, const bfloat16 *, blasint, float, float *, blasint);

static void *open_library(void)
{
    static const char *const names[] = {"libopenblas.so.0", "libopenblas.so"};
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && library == NULL; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

/* ISO C has no conversion from a data pointer to a function pointer; POSIX has, by their bytes. */
#define LOAD(target, symbol)                                                                       \
    do {                                                                                           \
        void *found_ = (symbol);                                                                   \
        memcpy(&(target), &found_, sizeof found_);                                                 \
    } while (0)

int blas_open(blas_t *blas, fail_t *fail)
{
    char *(*config)(void) = NULL;
    *blas = (blas_t){0};
    void *library = open_library();
    if (library == NULL)
        return fail_set(fail, FAIL_FILE, "OpenBLAS: cannot load libopenblas.so.0: %s", dlerror());
    LOAD(config, dlsym(library, "openblas_get_config"));
    LOAD(blas->set_threads, dlsym(library, "openblas_set_num_threads"));
    blas->sgemm = dlsym(library, "cblas_sgemm");
    blas->dgemm = dlsym(library, "cblas_dgemm");
    blas->sbgemm = dlsym(library, "cblas_sbgemm");
    if (config == NULL || blas->set_threads == NULL || blas->sgemm == NULL || blas->dgemm == NULL)
        return fail_set(fail, FAIL_FILE,
            "OpenBLAS: expected cblas_sgemm and openblas_set_num_threads, found a library without");
    blas->description = config();
    return 0;
}

const char *blas_function(const blas_t *blas, dtype_t mode, dtype_t *inputs)
{
    *inputs = mode == DTYPE_BF16 && blas->sbgemm == NULL ? DTYPE_F32 : mode;
    return *inputs == DTYPE_F64   ? "cblas_dgemm"
           : *inputs == DTYPE_F32 ? "cblas_sgemm"
                                  : "cblas_sbgemm";
}

void blas_product(const blas_t *blas, dtype_t type, size_t rows, size_t outputs, size_t inputs,
    const void *a, const void *w, void *c)
{
    blasint m = (blasint)rows, n = (blasint)outputs, k = (blasint)inputs;
    if (type == DTYPE_F64) {
        dgemm_fn *gemm;
        LOAD(gemm, blas->dgemm);
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, w, k, 0, c, n);
    } else if (type == DTYPE_F32) {
        sgemm_fn *gemm;
        LOAD(gemm, blas->sgemm);
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, w, k, 0, c, n);
    } else {
        sbgemm_fn *gemm;
        LOAD(gemm, blas->sbgemm);
        gemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, w, k, 0, c, n);
    }
}
