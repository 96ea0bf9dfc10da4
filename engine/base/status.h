/* Status codes and the message of a failure.
 *
 * Every function that can fail returns an int: 0 is success, negative is one of the codes below.
 * The message travels in a fail_t that the caller owns; the first failure wins. A message names the
 * object, what was expected and what was found, in one line of UTF-8 without a trailing newline,
 * with control characters escaped (printable.h). Thread safety: a fail_t belongs to one thread at a
 * time. */
#ifndef CHOIR_BASE_STATUS_H
#define CHOIR_BASE_STATUS_H

enum {
    FAIL_USAGE = -1,       /* a flag, an environment variable or a request is wrong */
    FAIL_FILE = -2,        /* a file or directory is missing or cannot be read or written */
    FAIL_FORMAT = -3,      /* a file's contents are malformed */
    FAIL_MODEL = -4,       /* well-formed, but not a model this engine runs, or parts disagree */
    FAIL_MEMORY = -5,      /* not enough memory */
    FAIL_LIMIT = -6,       /* a limit of this run is exceeded (KV cache, positions) */
    FAIL_COMM = -7,        /* communication failed */
    FAIL_INTERRUPTED = -8, /* the user or the system asked to stop */
    FAIL_INTERNAL = -9     /* a bug of ours */
};

#define FAIL_MESSAGE_BYTES 1024

typedef struct fail {
    int status; /* 0 or the code of the first failure */
    char message[FAIL_MESSAGE_BYTES];
} fail_t;

/* Records a failure unless one is recorded already. Returns fail->status. fail must not be NULL. */
int fail_set(fail_t *fail, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "usage", "file", ...: the code's name for machine-readable output. */
const char *fail_name(int status);

#endif
