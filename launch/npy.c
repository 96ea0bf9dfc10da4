#include "launch/npy.h"

#include <errno.h>
#include <string.h>

#define PREFIX_BYTES 10
#define HEADER_BYTES 128 /* of prefix and dictionary together; two sizes of 20 digits fit */

static int write_failed(const npy_t *npy, fail_t *fail)
{
    return fail_set(fail, FAIL_FILE, "%s: cannot write: %s", npy->path, strerror(errno));
}

int npy_open(
    npy_t *npy, const char *path, size_t n_rows, size_t n_columns, bool is_f64, fail_t *fail)
{
    char header[HEADER_BYTES + 1];
    *npy = (npy_t){.file = fopen(path, "wb"), .path = path};
    if (npy->file == NULL)
        return write_failed(npy, fail);
    npy->row_bytes = n_columns * (is_f64 ? sizeof(double) : sizeof(float));
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = HEADER_BYTES - PREFIX_BYTES;
    header[9] = 0;
    char *dictionary = header + PREFIX_BYTES;
    int used = snprintf(dictionary, HEADER_BYTES - PREFIX_BYTES,
        "{'descr': '<f%d', 'fortran_order': False, 'shape': (%zu, %zu), }", is_f64 ? 8 : 4, n_rows,
        n_columns);
    memset(dictionary + used, ' ', (size_t)(HEADER_BYTES - PREFIX_BYTES - used));
    header[HEADER_BYTES - 1] = '\n';
    if (fwrite(header, HEADER_BYTES, 1, npy->file) != 1)
        return write_failed(npy, fail);
    return 0;
}

int npy_write(npy_t *npy, const void *rows, size_t n_rows, fail_t *fail)
{
    if (fwrite(rows, npy->row_bytes, n_rows, npy->file) != n_rows)
        return write_failed(npy, fail);
    return 0;
}

int npy_close(npy_t *npy, fail_t *fail)
{
    if (npy->file != NULL && fclose(npy->file) != 0)
        write_failed(npy, fail);
    npy->file = NULL;
    return fail->status;
}
