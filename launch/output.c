#include "launch/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int output_write(output_t *output, const char *text, size_t bytes, fail_t *fail)
{
    while (bytes > 0 && !output->closed) {
        ssize_t n = write(STDOUT_FILENO, text, bytes);
        if (n >= 0) {
            text += n;
            bytes -= (size_t)n;
        } else if (errno == EPIPE) {
            output->closed = true;
        } else if (errno != EINTR) {
            return fail_set(fail, FAIL_FILE, "standard output: cannot write: %s", strerror(errno));
        }
    }
    return 0;
}

int output_json(output_t *output, const json_t *value, fail_t *fail)
{
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT);
    if (text == NULL)
        return fail_set(fail, FAIL_MEMORY, "output: out of memory for a JSON line");
    size_t bytes = strlen(text);
    text[bytes] = '\n'; /* in place of the final zero: one write for the line */
    output_write(output, text, bytes + 1, fail);
    free(text);
    return fail->status;
}
