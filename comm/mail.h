/* Point-to-point messages between ranks of a group, in no fixed order: replicas get work and return
 * results by them.
 *
 * Local except for opening and closing: a send copies its bytes and returns at once, a poll takes a
 * message that has arrived and never waits. Messages between two ranks arrive in the order in which
 * they were sent. Owns a communicator, so it does not interfere with collectives. One thread of a
 * rank at a time. */
#ifndef CHOIR_COMM_MAIL_H
#define CHOIR_COMM_MAIL_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "engine/base/status.h"

typedef struct mail mail_t;

/* Collective. */
int mail_open(mail_t **mail, comm_t *comm, fail_t *fail);
/* Collective. Waits until this rank's messages have been received, so every rank must poll for all
 * of its messages first. NULL is allowed (on all ranks). */
void mail_close(mail_t *mail);

/* kind: 0 to 32767, its meaning is the caller's. bytes: less than 2 GiB, may be 0.
 * FAIL_MEMORY; FAIL_LIMIT. */
int mail_send(mail_t *mail, int to, int kind, const void *data, size_t bytes, fail_t *fail);

typedef struct mail_letter {
    int from, kind;
    const void *data; /* [bytes] borrowed until the next poll */
    size_t bytes;
} mail_letter_t;

/* 1 and a letter when one has arrived, 0 when none has; negative FAIL_MEMORY. */
int mail_poll(mail_t *mail, mail_letter_t *letter, fail_t *fail);

#endif
