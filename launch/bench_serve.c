/* Method. Requests are streamed completions of random words or token ids, different ones each, of gen_tokens tokens (ignore_eos). Closed
 * loop: `clients` ask at once, each its next request when the last one has ended. Open loop: requests begin at times whose
 * distances are exponential with mean 1 / rate (Poisson), however many are under way. A token counts when its event has
 * arrived. Percentiles are of all requests, or all pairs of neighbouring events of a request. One thread polls.
 *
 * beside: every client has one request. When all of them have tokens, times between tokens count; when all have a quarter of
 * theirs, one more request arrives, with a prompt of so many tokens and an answer of one. Times between tokens of the others are
 * apart until it has its token; those before and after it are what they are compared with, so that a machine that gets slower
 * or faster meanwhile tells less. */
#include "launch/bench_serve.h"

#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/array.h"
#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/size.h"
#include "engine/run/philox.h"
#include "launch/http_client.h"

#define NS 1e-9
#define TOKEN_BYTES 24
#define TAIL_BYTES 160
#define MAX_OPEN 4096

typedef struct series {
    double *values;
    size_t n, capacity;
} series_t;

typedef enum phase { PHASE_FIRST_TOKENS, PHASE_ALONE, PHASE_BESIDE, PHASE_OVER } phase_t;

/* A request under way. */
typedef struct ask {
    http_client_t client;
    bool is_long;               /* the one that arrives beside the others */
    uint64_t begin_ns, last_ns; /* last_ns: of a token; 0: none yet */
    size_t n_events;
} ask_t;

typedef struct load {
    const bench_serve_options_t *options;
    http_place_t place;
    char *model;
    char *head; /* of every request's body, up to the prompt's first token */
    text_buffer_t body;
    ask_t *asks;         /* [n_open] */
    http_client_t *idle; /* [n_idle] connections without a request */
    struct pollfd *polls;
    size_t n_open, n_idle, n_begun, n_done, n_failed, most_open;
    uint64_t next_ns; /* open loop: when the next one begins */
    size_t prompt_tokens, gen_tokens;
    phase_t phase; /* without options->beside always PHASE_ALONE */
    series_t first, inter, beside, whole;
    double long_first_s; /* time to the first token of the request that arrives beside others */
    char failure[160];   /* of the first that failed */
} load_t;

static void add(series_t *s, double value)
{
    fail_t fail = {0};
    if (array_reserve(&s->values, &s->capacity, s->n + 1, sizeof *s->values, "times", &fail) == 0)
        s->values[s->n++] = value;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- Requests -------------------------------------------------------------------------------- */

static int find_model(load_t *load, fail_t *fail)
{
    http_client_t client;
    json_t *answer = NULL;
    if (http_client_ask(&client, &load->place, "/v1/models", load->options->key, NULL, fail) == 0 &&
        json_text_read(client.body.text, client.body.bytes, "/v1/models", &answer, fail) == 0) {
        const json_t *first = json_array_get(json_object_get(answer, "data"), 0);
        const char *id = json_string_value(json_object_get(first, "id"));
        load->model = id == NULL ? NULL : strdup(id);
        if (load->model == NULL)
            fail_set(fail, FAIL_FORMAT, "/v1/models: expected a model with an id");
    }
    json_decref(answer);
    http_client_close(&client);
    return fail->status;
}

static int make_head(load_t *load, fail_t *fail)
{
    json_t *model = json_string(load->model);
    char *name = json_dumps(model, JSON_ENCODE_ANY);
    if (name == NULL || asprintf(&load->head, "{\"model\":%s,\"prompt\":%s", name,
                            load->options->prompt_ids > 0 ? "[" : "\"") < 0)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    free(name);
    json_decref(model);
    return fail->status;
}

/* Token i of a body's prompt: a number, or a word. */
static int write_token(
    const bench_serve_options_t *o, size_t number, size_t i, char text[TOKEN_BYTES])
{
    double u = philox_uniform(o->seed, number, i);
    if (o->prompt_ids > 0)
        return snprintf(
            text, TOKEN_BYTES, "%s%zu", i > 0 ? "," : "", (size_t)(u * (double)o->prompt_ids));
    return snprintf(text, TOKEN_BYTES, "%s%c%c%c", i > 0 ? " " : "", 'a' + (int)(u * 26),
        'a' + (int)(u * 676) % 26, 'a' + (int)(u * 17576) % 26);
}

/* The request as JSON, written without a JSON value, whose making would take time of the server on the same cores. */
static int make_body(load_t *load, size_t number, bool is_long, fail_t *fail)
{
    const bench_serve_options_t *o = load->options;
    text_buffer_t *body = &load->body;
    size_t n_prompt = is_long ? o->beside : o->prompt_tokens;
    char text[TAIL_BYTES];
    body->bytes = 0;
    text_buffer_append(body, load->head, strlen(load->head), fail);
    for (size_t i = 0; i < n_prompt && fail->status == 0; i++)
        text_buffer_append(body, text, (size_t)write_token(o, number, i, text), fail);
    int bytes = snprintf(text, sizeof text,
        "%s,\"max_tokens\":%zu,\"temperature\":0.0,\"ignore_eos\":true,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true}}",
        o->prompt_ids > 0 ? "]" : "\"", is_long ? 1 : o->gen_tokens);
    return text_buffer_append(body, text, (size_t)bytes, fail);
}

static void note_failure(load_t *load, const char *message)
{
    if (load->n_failed++ == 0)
        snprintf(load->failure, sizeof load->failure, "%.150s", message);
}

static void begin(load_t *load, bool is_long)
{
    static const char path[] = "/v1/completions";
    const char *key = load->options->key;
    fail_t fail = {0};
    ask_t *ask = &load->asks[load->n_open];
    *ask = (ask_t){.is_long = is_long, .client.fd = -1};
    if (load->n_idle > 0)
        ask->client = load->idle[--load->n_idle];
    make_body(load, load->n_begun++, is_long, &fail);
    ask->begin_ns = clock_ns();
    if (fail.status == 0 && ask->client.fd >= 0)
        http_client_again(&ask->client, path, key, load->body.text, &fail);
    else if (fail.status == 0)
        http_client_open(&ask->client, &load->place, path, key, load->body.text, &fail);
    if (fail.status != 0) {
        note_failure(load, fail.message);
        load->n_done++;
        http_client_close(&ask->client);
    } else {
        load->n_open++;
        load->most_open = load->n_open > load->most_open ? load->n_open : load->most_open;
    }
}

static void begin_due(load_t *load)
{
    const bench_serve_options_t *o = load->options;
    uint64_t now = clock_ns();
    if (o->rate == 0) {
        while (load->n_begun < o->requests && load->n_open < o->clients)
            begin(load, false);
        return;
    }
    while (load->n_begun < o->requests && load->next_ns <= now && load->n_open < MAX_OPEN) {
        double u = philox_uniform(o->seed, UINT64_MAX, load->n_begun);
        load->next_ns += (uint64_t)(-log(1 - u) / o->rate / NS);
        begin(load, false);
    }
}

/* Whether all requests under way have so many tokens. */
static bool all_have(const load_t *load, size_t n_tokens)
{
    for (size_t i = 0; i < load->n_open; i++)
        if (load->asks[i].n_events < n_tokens)
            return false;
    return true;
}

/* With options->beside. */
static void move_phase(load_t *load)
{
    if (load->phase == PHASE_FIRST_TOKENS && all_have(load, 1))
        load->phase = PHASE_ALONE;
    if (load->phase == PHASE_ALONE && all_have(load, size_max(load->options->gen_tokens / 4, 2))) {
        load->phase = PHASE_BESIDE;
        begin(load, true);
    }
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void read_usage(load_t *load, const char *event, size_t bytes)
{
    json_error_t error;
    json_t *value = json_loadb(event, bytes, 0, &error);
    const json_t *usage = json_object_get(value, "usage");
    load->prompt_tokens += (size_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
    load->gen_tokens += (size_t)json_integer_value(json_object_get(usage, "completion_tokens"));
    json_decref(value);
}

/* Some servers say why an answer has ended in an event without a token. */
static bool is_token(const char *event, size_t bytes)
{
    const char *text = memmem(event, bytes, "\"text\":\"", 8);
    if (text == NULL)
        return false;
    return text[8] != '"' || memmem(event, bytes, "\"finish_reason\":\"", 17) == NULL;
}

/* The empty line that ends an event. NULL: it has not come yet. */
static char *find_end(char *text, size_t bytes)
{
    for (char *at = text, *end = text + bytes; (at = memchr(at, '\n', (size_t)(end - at))) != NULL;
         at++)
        if (at + 1 < end && at[1] == '\n')
            return at;
    return NULL;
}

/* Looks at the events that are complete. Parsing each would measure the parser. */
static void read_events(load_t *load, ask_t *ask, uint64_t now)
{
    text_buffer_t *body = &ask->client.body;
    size_t from = 0;
    for (char *end;
         body->bytes > from && (end = find_end(body->text + from, body->bytes - from)) != NULL;
         from = (size_t)(end - body->text) + 2) {
        const char *event = body->text + from;
        size_t bytes = (size_t)(end - event);
        if (bytes < 6 || memcmp(event, "data: ", 6) != 0)
            continue;
        bool token = is_token(event, bytes);
        if (!token && memmem(event, bytes, "\"usage\":{", 9) != NULL)
            read_usage(load, event + 6, bytes - 6);
        /* The one token of a long prompt may have no text of its own. */
        if (ask->is_long ? memmem(event, bytes, "\"text\":\"", 8) == NULL : !token)
            continue;
        if (ask->is_long)
            load->long_first_s = (double)(now - ask->begin_ns) * NS;
        else if (ask->last_ns == 0)
            add(&load->first, (double)(now - ask->begin_ns) * NS);
        else if (load->phase != PHASE_FIRST_TOKENS)
            add(load->phase == PHASE_BESIDE ? &load->beside : &load->inter,
                (double)(now - ask->last_ns) * NS);
        ask->last_ns = now;
        ask->n_events++;
    }
    if (from > 0)
        memmove(body->text, body->text + from, body->bytes - from);
    body->bytes -= from;
}

static void finish(load_t *load, size_t i, const fail_t *broken)
{
    ask_t *ask = &load->asks[i];
    char text[160];
    if (broken->status != 0) {
        note_failure(load, broken->message);
    } else if (ask->client.status != 200) {
        snprintf(text, sizeof text, "status %d: %.*s", ask->client.status,
            (int)(ask->client.body.bytes < 100 ? ask->client.body.bytes : 100),
            ask->client.body.bytes > 0 ? ask->client.body.text : "");
        note_failure(load, text);
    } else if (ask->n_events == 0) {
        note_failure(load, "a stream without text");
    } else if (ask->is_long) {
        load->phase = PHASE_OVER;
    } else {
        add(&load->whole, (double)(clock_ns() - ask->begin_ns) * NS);
        if (load->options->beside > 0 && load->phase != PHASE_OVER)
            note_failure(
                load, "an answer has ended before the prompt of --beside had: raise --gen-tokens");
    }
    if (ask->client.keeps)
        load->idle[load->n_idle++] = ask->client;
    else
        http_client_close(&ask->client);
    load->asks[i] = load->asks[--load->n_open];
    load->n_done++;
}

static void wait_and_read(load_t *load)
{
    int most_ms = load->options->rate > 0 ? 1 : 1000;
    for (size_t i = 0; i < load->n_open; i++)
        load->polls[i] = (struct pollfd){
            .fd = load->asks[i].client.fd, .events = http_client_events(&load->asks[i].client)};
    poll(load->polls, load->n_open, most_ms);
    uint64_t now = clock_ns();
    for (size_t i = load->n_open; i-- > 0;) {
        fail_t broken = {0};
        ask_t *ask = &load->asks[i];
        if (load->polls[i].revents == 0)
            continue;
        http_client_move(&ask->client, &broken);
        if (ask->client.status == 200)
            read_events(load, ask, now);
        if (ask->client.ended || broken.status != 0)
            finish(load, i, &broken);
    }
}

/* ---- Results --------------------------------------------------------------------------------- */

static json_t *percentiles(series_t *s)
{
    static const double shares[] = {0.5, 0.9, 0.99};
    static const char *const names[] = {"p50", "p90", "p99"};
    json_t *object = json_object();
    double sum = 0;
    if (s->n > 0)
        qsort(s->values, s->n, sizeof *s->values, compare);
    for (size_t i = 0; i < s->n; i++)
        sum += s->values[i];
    json_object_set_new(object, "mean", s->n > 0 ? json_real(sum / (double)s->n) : json_null());
    for (size_t i = 0; i < 3; i++) {
        size_t at = (size_t)ceil(shares[i] * (double)s->n);
        json_object_set_new(
            object, names[i], s->n > 0 ? json_real(s->values[at > 0 ? at - 1 : 0]) : json_null());
    }
    return object;
}

static json_t *results(load_t *load, double seconds)
{
    const bench_serve_options_t *o = load->options;
    json_t *row = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:I, s:f, s:I, s:I, s:f, s:o, s:o, s:o}", "kind",
        "serve", "url", o->url, "model", load->model, "requests", (json_int_t)o->requests, "failed",
        (json_int_t)load->n_failed, "clients", (json_int_t)(o->rate > 0 ? 0 : o->clients), "rate",
        o->rate, "most_open", (json_int_t)load->most_open, "gen_tokens_each",
        (json_int_t)o->gen_tokens, "seconds", seconds, "prompt_tokens",
        (json_int_t)load->prompt_tokens, "gen_tokens", (json_int_t)load->gen_tokens,
        "gen_tokens_per_s", (double)load->gen_tokens / seconds, "first_token_s",
        percentiles(&load->first), "inter_token_s", percentiles(&load->inter), "request_s",
        percentiles(&load->whole));
    if (o->beside > 0) {
        json_object_set_new(row, "beside_prompt_tokens", json_integer((json_int_t)o->beside));
        json_object_set_new(row, "beside_first_token_s", json_real(load->long_first_s));
        json_object_set_new(row, "beside_inter_token_s", percentiles(&load->beside));
    }
    return row;
}

int bench_serve_run(const bench_serve_options_t *options, json_t **row, fail_t *fail)
{
    load_t load = {
        .options = options, .phase = options->beside > 0 ? PHASE_FIRST_TOKENS : PHASE_ALONE};
    size_t open = options->rate > 0 ? MAX_OPEN : options->clients + 1;
    size_t n_requests = options->requests + (options->beside > 0);
    *row = NULL;
    load.asks = calloc(open, sizeof *load.asks);
    load.polls = calloc(open, sizeof *load.polls);
    load.idle = calloc(open, sizeof *load.idle);
    if (load.asks == NULL || load.polls == NULL || load.idle == NULL)
        fail_set(fail, FAIL_MEMORY, "bench: out of memory");
    if (fail->status == 0 && http_place_open(&load.place, options->url, fail) == 0 &&
        find_model(&load, fail) == 0 && make_head(&load, fail) == 0) {
        uint64_t begin_ns = load.next_ns = clock_ns();
        while (load.n_done < n_requests) {
            begin_due(&load);
            wait_and_read(&load);
            if (options->beside > 0)
                move_phase(&load);
        }
        *row = results(&load, (double)(clock_ns() - begin_ns) * NS);
        if (load.n_failed > 0)
            fail_set(fail, FAIL_COMM, "%zu of %zu requests failed; the first: %s", load.n_failed,
                n_requests, load.failure);
    }
    while (load.n_idle > 0)
        http_client_close(&load.idle[--load.n_idle]);
    http_place_close(&load.place);
    free(load.model);
    free(load.head);
    text_buffer_clear(&load.body);
    free(load.idle);
    free(load.asks);
    free(load.polls);
    free(load.first.values);
    free(load.inter.values);
    free(load.beside.values);
    free(load.whole.values);
    return fail->status;
}

static double number(const json_t *row, const char *key, const char *inner)
{
    const json_t *value = json_object_get(row, key);
    return json_number_value(inner == NULL ? value : json_object_get(value, inner));
}

void bench_serve_print(const json_t *row, FILE *out)
{
    static const char *const series[][2] = {{"first token", "first_token_s"},
        {"between tokens", "inter_token_s"}, {"whole request", "request_s"},
        {"beside a prompt", "beside_inter_token_s"}};
    bool beside = json_object_get(row, "beside_inter_token_s") != NULL;
    fprintf(out, "%s at %s: %.0f requests, %.0f failed, in %.2f s\n",
        json_string_value(json_object_get(row, "model")),
        json_string_value(json_object_get(row, "url")), number(row, "requests", NULL),
        number(row, "failed", NULL), number(row, "seconds", NULL));
    fprintf(out, "%.0f prompt tokens, %.0f generated, %.1f/s; at most %.0f requests at once\n",
        number(row, "prompt_tokens", NULL), number(row, "gen_tokens", NULL),
        number(row, "gen_tokens_per_s", NULL), number(row, "most_open", NULL));
    fprintf(out, "%-16s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99");
    for (size_t i = 0; i < 3 + (size_t)beside; i++)
        fprintf(out, "%-16s %10.2f %10.2f %10.2f %10.2f\n", series[i][0],
            1e3 * number(row, series[i][1], "mean"), 1e3 * number(row, series[i][1], "p50"),
            1e3 * number(row, series[i][1], "p90"), 1e3 * number(row, series[i][1], "p99"));
    if (beside)
        fprintf(out,
            "beside a prompt of %.0f tokens, which took %.2f s: p99 is %.2f times the median without\n",
            number(row, "beside_prompt_tokens", NULL), number(row, "beside_first_token_s", NULL),
            number(row, "beside_inter_token_s", "p99") / number(row, "inter_token_s", "p50"));
}
