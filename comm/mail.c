#include "comm/mail.h"

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "comm/internal.h"
#include "engine/base/array.h"
#include "engine/base/size.h"

/* A letter that is being sent. */
typedef struct sent {
    struct sent *next;
    MPI_Request request;
    char data[];
} sent_t;

struct mail {
    MPI_Comm ranks;
    sent_t *sent;
    char *received; /* [capacity] */
    size_t capacity;
};

int mail_open(mail_t **out, comm_t *comm, fail_t *fail)
{
    *out = NULL;
    mail_t *mail = calloc(1, sizeof *mail);
    if (mail == NULL)
        fail_set(fail, FAIL_MEMORY, "mail: out of memory");
    if (comm_agree(comm, fail) != 0) {
        free(mail);
        return fail->status;
    }
    MPI_Comm_dup(comm->world, &mail->ranks);
    *out = mail;
    return 0;
}

/* Frees letters that have been sent; wait: all of them. */
static void forget_sent(mail_t *mail, bool wait)
{
    for (sent_t **at = &mail->sent; *at != NULL;) {
        sent_t *sent = *at;
        int done = 1;
        if (wait)
            MPI_Wait(&sent->request, MPI_STATUS_IGNORE);
        else
            MPI_Test(&sent->request, &done, MPI_STATUS_IGNORE);
        if (done) {
            *at = sent->next;
            free(sent);
        } else {
            at = &sent->next;
        }
    }
}

void mail_close(mail_t *mail)
{
    if (mail == NULL)
        return;
    forget_sent(mail, true);
    MPI_Comm_free(&mail->ranks);
    free(mail->received);
    free(mail);
}

int mail_send(mail_t *mail, int to, int kind, const void *data, size_t bytes, fail_t *fail)
{
    if (bytes > INT_MAX)
        return fail_set(
            fail, FAIL_LIMIT, "mail: expected less than 2 GiB in a message, found %zu", bytes);
    forget_sent(mail, false);
    sent_t *sent = malloc(sizeof *sent + bytes);
    if (sent == NULL)
        return fail_set(fail, FAIL_MEMORY, "mail: out of memory for %zu bytes", bytes);
    if (bytes > 0)
        memcpy(sent->data, data, bytes);
    sent->next = mail->sent;
    mail->sent = sent;
    MPI_Isend(sent->data, (int)bytes, MPI_BYTE, to, kind, mail->ranks, &sent->request);
    return 0;
}

int mail_poll(mail_t *mail, mail_letter_t *letter, fail_t *fail)
{
    MPI_Status status;
    int arrived, bytes;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, mail->ranks, &arrived, &status);
    if (!arrived) {
        forget_sent(mail, false);
        return 0;
    }
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (array_reserve(&mail->received, &mail->capacity, (size_t)bytes, 1, "mail", fail) != 0)
        return fail->status;
    MPI_Recv(mail->received, bytes, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, mail->ranks,
        MPI_STATUS_IGNORE);
    *letter = (mail_letter_t){status.MPI_SOURCE, status.MPI_TAG, mail->received, (size_t)bytes};
    return 1;
}
