/* Requests on their way through a server. Internal to engine/serve. */
#ifndef CHOIR_SERVE_SERVER_INTERNAL_H
#define CHOIR_SERVE_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/serve/api_answer.h"
#include "engine/serve/metrics.h"
#include "engine/serve/server.h"
#include "engine/serve/split.h"

#define SERVER_ID_BYTES 48
#define SERVER_BUCKETS 256

/* A token of a streamed answer, or the end of one of the answers. Its text follows it, and the token's choice if it was
 * asked for. */
typedef struct told {
    size_t part;
    bool ends, has_choice;
    size_t bytes; /* of text */
} told_t;

/* A job of the fleet: one answer, or the log-probabilities of a prompt. */
typedef struct part {
    struct part *next_of_bucket;
    struct ask *ask;
    uint64_t job;
    size_t prompt;
    bool scores, submitted, done;
    char *kept;       /* what result points into */
    uint64_t last_ns; /* of a stream: its last token */
    size_t n_counted; /* and how many there were */
    fleet_result_t result;
    /* HTTP's: what has been written of a stream. */
    size_t n_tokens, n_text, n_characters, n_calls;
    char *
        frame; /* [frame_bytes] an event without its text, which belongs at text_at; NULL: not made yet */
    size_t frame_bytes, text_at;
    split_t split;
} part_t;

/* A request of the API, from its arrival until both its call and its jobs are over. */
typedef struct ask {
    struct ask *next; /* in the queue, or among those that run */
    struct server *server;
    http_call_t *call; /* under the lock; NULL: over */
    api_request_t request;
    char id[SERVER_ID_BYTES];
    int64_t created;
    uint64_t client, arrived_ns, deadline_ns; /* 0: none */
    uint64_t begun_ns;                        /* when it went to the fleet */
    tokenizer_ids_t *prompts;                 /* [request.n_prompts] */
    part_t *parts;                            /* [n_parts]; answers first */
    size_t n_parts, n_answers, n_done;
    atomic_bool gone; /* its client has hung up */
    bool unwanted;    /* nobody waits for it any more */
    bool cancelled;   /* and the engine's side has taken notice */
    /* Under the lock. */
    bool finished;     /* all parts are done, or error says why not */
    size_t n_unscored; /* prompts whose log-probabilities are still to come */
    bool in_engine;
    api_error_t error;
    text_buffer_t told; /* of a stream: told_t, one after another */
    /* HTTP's. */
    text_buffer_t
        taken; /* the same, being written; the two are exchanged, so that tokens need no memory of their own */
    split_options_t split;
    bool begun; /* the stream's first pieces are written */
} ask_t;

typedef enum server_state {
    SERVER_LOADING,
    SERVER_READY,
    SERVER_DRAINING,
    SERVER_FAILED
} server_state_t;

struct server {
    server_options_t options;
    server_model_t model;
    http_t *http;
    engine_info_t info;
    int32_t stop_ids[CONFIG_MAX_STOP_IDS + 1];
    size_t n_stop_ids;
    bool thinks;             /* the model's template knows of reasoning */
    split_tools_t call_form; /* and how its calls look */
    pthread_mutex_t lock;
    pthread_cond_t work; /* there is something for server_run */
    server_state_t state;
    char failure[FAIL_MESSAGE_BYTES];
    metrics_t metrics;
    size_t n_replicas, n_ranks, n_streaming_tokens; /* of answers that are being made */
    scheduler_figures_t *figures;                   /* [n_replicas] */
    rank_times_t *rank_times;                       /* [n_ranks] */
    ask_t *first, *last;                            /* the queue */
    size_t n_queued, n_calls; /* n_calls: requests for answers whose calls are not over */
    int64_t began;            /* seconds since 1970 */
    uint64_t next_id;
    _Atomic(int) log_fd;
    bool log_failed;
    /* server_run's. */
    uint64_t drain_end_ns, figures_ns, flushed_ns;
    ask_t *running;
    size_t n_running;
    part_t *by_job[SERVER_BUCKETS];
};

/* ---- server_calls.c: HTTP's thread ----------------------------------------------------------- */

extern const http_handler_t server_handler;

/* ---- server_ask.c ---------------------------------------------------------------------------- */

/* A request whose text is [bytes]; NULL and *error when it cannot be taken. */
ask_t *ask_open(
    server_t *server, api_kind_t kind, const http_request_t *request, api_error_t *error);
void ask_free(ask_t *ask);
/* The text of a conversation. document: with messages and what else a template takes; the arguments of its calls are
 * changed. prompts: with the beginning of an answer. */
int ask_render_chat(
    const server_t *server, json_t *document, text_buffer_t *text, bool prompts, fail_t *fail);
/* Part i as the fleet is asked for it; it points into the ask and its server. */
request_t ask_request(const ask_t *ask, size_t part);
/* The whole answer, or the error. From malloc. */
char *ask_answer(const ask_t *ask, unsigned *status, size_t *bytes);
/* What all objects of its answer have; and its choice i, without what a chat's says. */
api_answer_t ask_head(const ask_t *ask);
api_choice_t ask_choice(const ask_t *ask, size_t i);

/* ---- server_stream.c ------------------------------------------------------------------------- */

/* What is new of a stream: ask->taken. *ended: that was all. */
void ask_stream(ask_t *ask, bool finished, text_buffer_t *out, bool *ended);

/* ---- server_log.c ---------------------------------------------------------------------------- */

/* Opens the log, again where it is open. FAIL_FILE. */
int server_log_open(server_t *server, fail_t *fail);
void server_log_close(server_t *server);
/* ask: NULL where the request was none for an answer. */
void server_log_write(server_t *server, const ask_t *ask, const http_record_t *record);

/* ---- server_metrics.c ------------------------------------------------------------------------ */

/* With the lock held. A token of a streamed answer; an answer that has ended. */
void server_count_token(server_t *server, part_t *part, uint64_t now);
void server_count_answer(server_t *server, const part_t *part, uint64_t now);
/* server_run's. */
void server_take_figures(server_t *server);
void server_write_metrics(server_t *server, text_buffer_t *out);
json_t *server_stats_json(server_t *server);

/* ---- server_text.c --------------------------------------------------------------------------- */

/* The answers; NULL and *error when the request is wrong. */
json_t *server_tokenize(const server_t *server, const http_request_t *request, api_error_t *error);
json_t *server_detokenize(
    const server_t *server, const http_request_t *request, api_error_t *error);

/* A JSON value as text from malloc; its reference is dropped. */
char *server_json(json_t *value, size_t *bytes);

#endif
