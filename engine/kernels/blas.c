#include "engine/kernels/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef __typeof__(cblas_sgemm) sgemm_fn;
typedef __typeof__(cblas_dgemm) dgemm_fn;
typedef void sbgemm_fn(CBLAS_ORDER, CBLAS_TRANSPOSE, CBLAS_TRANSPOSE, blasint, blasint, blasint,
    float, const bfloat16 *, blasint, const bfloat16 *, blasint, float, float *, blasint);

typedef __typeof__(cblas_ssyrk) ssyrk_fn;
typedef __typeof__(cblas_strmm) strmm_fn;
typedef __typeof__(cblas_strsm) strsm_fn;
/* LAPACK's, column-major; blasint is what the library's integers are. */
typedef void spotrf_fn(const char *, const blasint *, float *, const blasint *, blasint *, size_t);
typedef void strtri_fn(const char *, const char *, const blasint *, float *, const blasint *,
    blasint *, size_t, size_t);

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

void blas_choose_core(isa_t isa)
{
    const char *core = isa_has(isa, ISA_AVX512) ? "SkylakeX"
                       : isa_has(isa, ISA_AVX2) ? "Haswell"
                                                : NULL;
    if (core != NULL)
        setenv("OPENBLAS_CORETYPE", core, 0);
}

int blas_open(blas_t *blas, fail_t *fail)
{
    char *(*config)(void) = NULL, *(*core)(void) = NULL;
    *blas = (blas_t){0};
    void *library = open_library();
    if (library == NULL)
        return fail_set(fail, FAIL_FILE, "OpenBLAS: cannot load libopenblas.so.0: %s", dlerror());
    LOAD(config, dlsym(library, "openblas_get_config"));
    LOAD(core, dlsym(library, "openblas_get_corename"));
    LOAD(blas->set_threads, dlsym(library, "openblas_set_num_threads"));
    blas->sgemm = dlsym(library, "cblas_sgemm");
    blas->dgemm = dlsym(library, "cblas_dgemm");
    blas->sbgemm = dlsym(library, "cblas_sbgemm");
    blas->ssyrk = dlsym(library, "cblas_ssyrk");
    blas->strmm = dlsym(library, "cblas_strmm");
    blas->strsm = dlsym(library, "cblas_strsm");
    blas->spotrf = dlsym(library, "spotrf_");
    blas->strtri = dlsym(library, "strtri_");
    if (config == NULL || blas->set_threads == NULL || blas->sgemm == NULL || blas->dgemm == NULL)
        return fail_set(fail, FAIL_FILE,
            "OpenBLAS: expected cblas_sgemm and openblas_set_num_threads, found a library without");
    blas->description = config();
    blas->core = core == NULL ? "" : core();
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

int blas_need_lapack(const blas_t *blas, fail_t *fail)
{
    if (blas->ssyrk != NULL && blas->strmm != NULL && blas->strsm != NULL && blas->spotrf != NULL &&
        blas->strtri != NULL)
        return 0;
    return fail_set(fail, FAIL_FILE,
        "OpenBLAS: expected cblas_ssyrk, cblas_strmm, cblas_strsm, spotrf_ and strtri_, found a library without (%s)",
        blas->description);
}

void blas_add_squares(const blas_t *blas, size_t n_rows, size_t first, size_t n, const float *x,
    size_t x_stride, float *c, size_t c_stride)
{
    const blasint rows = (blasint)n_rows, m = (blasint)n, before = (blasint)first,
                  ldx = (blasint)x_stride, ldc = (blasint)c_stride;
    sgemm_fn *gemm;
    ssyrk_fn *syrk;
    LOAD(gemm, blas->sgemm);
    LOAD(syrk, blas->ssyrk);
    float *band = c + first * c_stride;
    if (first > 0)
        gemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, before, rows, 1, x + first, ldx, x, ldx, 1,
            band, ldc);
    syrk(CblasRowMajor, CblasLower, CblasTrans, m, rows, 1, x + first, ldx, 1, band + first, ldc);
}

void blas_subtract_product(const blas_t *blas, size_t rows, size_t columns, size_t inputs,
    const float *a, size_t a_stride, const float *b, size_t b_stride, float *c, size_t c_stride)
{
    sgemm_fn *gemm;
    LOAD(gemm, blas->sgemm);
    gemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)columns,
        (blasint)inputs, -1, a, (blasint)a_stride, b, (blasint)b_stride, 1, c, (blasint)c_stride);
}

void blas_subtract_transposed(const blas_t *blas, size_t rows, size_t columns, size_t inputs,
    const float *a, size_t a_stride, const float *b, size_t b_stride, float *c, size_t c_stride)
{
    sgemm_fn *gemm;
    LOAD(gemm, blas->sgemm);
    gemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)columns, (blasint)inputs,
        -1, a, (blasint)a_stride, b, (blasint)b_stride, 1, c, (blasint)c_stride);
}

void blas_subtract_squares(const blas_t *blas, size_t n, size_t inputs, const float *a,
    size_t a_stride, float *c, size_t c_stride)
{
    ssyrk_fn *syrk;
    LOAD(syrk, blas->ssyrk);
    syrk(CblasRowMajor, CblasLower, CblasNoTrans, (blasint)n, (blasint)inputs, -1, a,
        (blasint)a_stride, 1, c, (blasint)c_stride);
}

/* What is the lower triangle of rows is the upper one of columns. */
bool blas_factor(const blas_t *blas, size_t n, float *a, size_t a_stride)
{
    const blasint size = (blasint)n, stride = (blasint)a_stride;
    blasint info = 0;
    spotrf_fn *potrf;
    LOAD(potrf, blas->spotrf);
    potrf("U", &size, a, &stride, &info, 1);
    return info == 0;
}

bool blas_invert_factor(const blas_t *blas, size_t n, float *a, size_t a_stride)
{
    const blasint size = (blasint)n, stride = (blasint)a_stride;
    blasint info = 0;
    strtri_fn *trtri;
    LOAD(trtri, blas->strtri);
    trtri("U", "N", &size, a, &stride, &info, 1, 1);
    return info == 0;
}

void blas_divide_by_factor(const blas_t *blas, size_t rows, size_t n, const float *l,
    size_t l_stride, float *b, size_t b_stride)
{
    strsm_fn *trsm;
    LOAD(trsm, blas->strsm);
    trsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)rows, (blasint)n,
        1, l, (blasint)l_stride, b, (blasint)b_stride);
}

void blas_multiply_by_factor(const blas_t *blas, size_t rows, size_t n, const float *l,
    size_t l_stride, float *b, size_t b_stride)
{
    strmm_fn *trmm;
    LOAD(trmm, blas->strmm);
    trmm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, (blasint)rows, (blasint)n,
        1, l, (blasint)l_stride, b, (blasint)b_stride);
}

void blas_multiply_left_by_factor(const blas_t *blas, size_t n, size_t columns, const float *l,
    size_t l_stride, float *b, size_t b_stride)
{
    strmm_fn *trmm;
    LOAD(trmm, blas->strmm);
    trmm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, (blasint)n,
        (blasint)columns, -1, l, (blasint)l_stride, b, (blasint)b_stride);
}
