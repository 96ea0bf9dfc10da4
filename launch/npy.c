#include "launch/npy.h"

#include <stdio.h>
#include <string.h>

#define PREFIX_BYTES 10
#define HEADER_BYTES 128 /* of prefix and dictionary together; two sizes of 20 digits fit */

/* A write error ends the run at once, with the message of closing. */
static int write_bytes(npy_t *npy, const void *bytes, size_t n, fail_t *fail)
{
    if (fwrite(bytes, 1, n, out_file_stream(npy->file)) == n || out_file_is_stdout(npy->file))
        return 0;
    out_file_close(npy->file, fail);
    npy->file = NULL;
    return fail->status;
}

int npy_open(
    npy_t *npy, const char *path, size_t n_rows, size_t n_columns, bool is_f64, fail_t *fail)
{
    char header[HEADER_BYTES + 1];
    *npy = (npy_t){.path = path};
    if (out_file_open(&npy->file, path, OUT_REPLACE, fail) != 0)
        return fail->status;
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
    return write_bytes(npy, header, HEADER_BYTES, fail);
}

int npy_write(npy_t *npy, const void *rows, size_t n_rows, fail_t *fail)
{
    return write_bytes(npy, rows, npy->row_bytes * n_rows, fail);
}

int npy_close(npy_t *npy, fail_t *fail)
{
    if (fail->status == 0)
        out_file_close(npy->file, fail);
    else
        out_file_drop(npy->file);
    npy->file = NULL;
    return fail->status;
}
