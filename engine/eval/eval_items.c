#include "engine/eval/eval_task_internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/array.h"
#include "engine/base/json.h"
#include "engine/base/size.h"
#include "engine/eval/eval_template.h"

#define WHERE_BYTES 4400

typedef struct reader {
    eval_task_t *task;
    const tokenizer_t *tokenizer;
    json_t **shots; /* [n_shots] */
    size_t n_shots, capacity;
} reader_t;

void eval_item_clear(eval_item_t *item)
{
    for (size_t j = 0; j < item->n_jobs; j++)
        tokenizer_ids_clear(&item->jobs[j].ids);
    free(item->jobs);
    free(item->id);
    free(item->target);
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static bool is_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!isspace((unsigned char)text[i]))
            return false;
    return true;
}

/* Takes the next line that is not blank off the text: *line of *bytes, its *number counted on from
 * what it was. False at the end. */
static bool next_line(eval_text_t *rest, const char **line, size_t *bytes, size_t *number)
{
    while (rest->bytes > 0) {
        const char *newline = memchr(rest->text, '\n', rest->bytes);
        *line = rest->text;
        *bytes = newline == NULL ? rest->bytes : (size_t)(newline - rest->text);
        size_t taken = size_min(*bytes + 1, rest->bytes);
        rest->text += taken;
        rest->bytes -= taken;
        (*number)++;
        if (!is_blank(*line, *bytes))
            return true;
    }
    return false;
}

static int read_shots(reader_t *r, eval_text_t rest, fail_t *fail)
{
    const eval_task_t *task = r->task;
    const char *line;
    size_t bytes, number = 0;
    r->shots = calloc(task->n_shots + 1, sizeof *r->shots);
    if (r->shots == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", task->shots_path);
    while (r->n_shots < task->n_shots && next_line(&rest, &line, &bytes, &number)) {
        char where[WHERE_BYTES];
        snprintf(where, sizeof where, "%s: line %zu", task->shots_path, number);
        if (json_line_read(line, bytes, where, &r->shots[r->n_shots], fail) != 0)
            return fail->status;
        r->n_shots++;
    }
    if (r->n_shots < task->n_shots)
        return fail_set(fail, FAIL_FORMAT, "%s: expected %zu examples, found %zu", task->shots_path,
            task->n_shots, r->n_shots);
    return 0;
}

/* ---- Prompts --------------------------------------------------------------------------------- */

static const char *field(
    const eval_task_t *task, json_t *object, const char *key, const char *fallback)
{
    const char *value = json_string_value(json_object_get(object, key));
    (void)task;
    return value == NULL ? fallback : value;
}

static const char *task_field(const eval_task_t *task, const char *key, const char *fallback)
{
    return field(task, task->root, key, fallback);
}

static int add_message(json_t *messages, const char *role, const char *text, json_t *doc,
    const char *where, fail_t *fail)
{
    text_buffer_t content = {0};
    if (template_render(text, doc, where, &content, fail) == 0 &&
        json_array_append_new(messages, chat_message(role, content.text, content.bytes)) != 0)
        fail_set(fail, FAIL_FORMAT, "%s: expected UTF-8 text, found other bytes", where);
    text_buffer_clear(&content);
    return fail->status;
}

/* The choice of an item that is right; of an example, what its target is. */
static int append_target(
    const reader_t *r, json_t *doc, const char *where, text_buffer_t *out, fail_t *fail);

/* The model's part of an example. */
static int add_target(json_t *messages, const reader_t *r, json_t *doc, fail_t *fail)
{
    text_buffer_t content = {0};
    const char *where = r->task->shots_path;
    text_buffer_append(&content, "", 0, fail);
    if (append_target(r, doc, where, &content, fail) == 0 &&
        json_array_append_new(messages, chat_message("assistant", content.text, content.bytes)) !=
            0)
        fail_set(fail, FAIL_FORMAT, "%s: expected UTF-8 text, found other bytes", where);
    text_buffer_clear(&content);
    return fail->status;
}

/* The prompt as a conversation: the examples are turns of their own. */
static int chat_prompt(
    const reader_t *r, json_t *doc, const char *where, text_buffer_t *out, fail_t *fail)
{
    const eval_task_t *task = r->task;
    const char *system = task_field(task, "system", NULL);
    const char *prompt = task_field(task, "prompt", "");
    json_t *messages = json_array();
    if (messages == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", where);
    if (system != NULL)
        add_message(messages, "system", system, doc, where, fail);
    for (size_t i = 0; i < r->n_shots && fail->status == 0; i++) {
        add_message(messages, "user", prompt, r->shots[i], task->shots_path, fail);
        add_target(messages, r, r->shots[i], fail);
    }
    add_message(messages, "user", prompt, doc, where, fail);
    if (fail->status == 0)
        chat_render(task->template, &(chat_input_t){.messages = messages}, out, fail);
    json_decref(messages);
    return fail->status;
}

static int plain_prompt(
    const reader_t *r, json_t *doc, const char *where, text_buffer_t *out, fail_t *fail)
{
    const eval_task_t *task = r->task;
    json_t *shots = json_object_get(task->root, "shots");
    const char *between = field(task, shots, "between", "\n\n");
    const char *before = field(task, shots, "before_target", " ");
    const char *prompt = task_field(task, "prompt", "");
    for (size_t i = 0; i < r->n_shots && fail->status == 0; i++) {
        template_render(prompt, r->shots[i], task->shots_path, out, fail);
        text_buffer_append(out, before, strlen(before), fail);
        append_target(r, r->shots[i], task->shots_path, out, fail);
        text_buffer_append(out, between, strlen(between), fail);
    }
    return template_render(prompt, doc, where, out, fail);
}

static int render_prompt(
    const reader_t *r, json_t *doc, const char *where, text_buffer_t *out, fail_t *fail)
{
    text_buffer_append(out, "", 0, fail);
    return r->task->chat ? chat_prompt(r, doc, where, out, fail)
                         : plain_prompt(r, doc, where, out, fail);
}

/* ---- Generation ------------------------------------------------------------------------------ */

static int read_generate(
    const reader_t *r, json_t *doc, const char *where, eval_item_t *item, fail_t *fail)
{
    text_buffer_t prompt = {0}, target = {0};
    text_buffer_append(&target, "", 0, fail);
    render_prompt(r, doc, where, &prompt, fail);
    template_render(task_field(r->task, "target", ""), doc, where, &target, fail);
    item->jobs = calloc(1, sizeof *item->jobs);
    if (item->jobs == NULL)
        fail_set(fail, FAIL_MEMORY, "%s: out of memory", where);
    if (fail->status == 0) {
        item->n_jobs = 1;
        tokenizer_encode(r->tokenizer, prompt.text, prompt.bytes, true, &item->jobs[0].ids, fail);
        item->target = target.text;
        target = (text_buffer_t){0};
    }
    text_buffer_clear(&prompt);
    text_buffer_clear(&target);
    return fail->status;
}

/* ---- Choices --------------------------------------------------------------------------------- */

/* The choices as texts: those of an array of the task, or the elements of an array of the item. */
static json_t *choices_of(const reader_t *r, json_t *doc, const char *where, fail_t *fail)
{
    json_t *choices = json_object_get(r->task->root, "choices");
    json_t *list =
        json_is_string(choices) ? template_value(json_string_value(choices), doc) : choices;
    json_t *texts = json_array(), *choice;
    size_t i;
    if (!json_is_array(list) || json_array_size(list) == 0)
        fail_set(fail, FAIL_FORMAT, "%s: choices: expected an array of texts, found none", where);
    json_array_foreach (list, i, choice) {
        text_buffer_t text = {0};
        text_buffer_append(&text, "", 0, fail);
        if (!json_is_string(choice))
            fail_set(fail, FAIL_FORMAT, "%s: choices: expected texts, found something else", where);
        else if (list == choices)
            template_render(json_string_value(choice), doc, where, &text, fail);
        else
            text_buffer_append(&text, json_string_value(choice), json_string_length(choice), fail);
        if (fail->status == 0)
            json_array_append_new(texts, json_stringn(text.text, text.bytes));
        text_buffer_clear(&text);
    }
    if (fail->status != 0 || json_array_size(texts) != json_array_size(list)) {
        json_decref(texts);
        fail_set(fail, FAIL_FORMAT, "%s: choices: expected UTF-8 text", where);
        return NULL;
    }
    return texts;
}

/* Which choice the answer means: its number from 0, its letter, or its text. */
static int find_answer(const reader_t *r, json_t *doc, json_t *choices, const char *where,
    size_t *answer, fail_t *fail)
{
    text_buffer_t text = {0};
    size_t n = json_array_size(choices);
    text_buffer_append(&text, "", 0, fail);
    if (template_render(task_field(r->task, "answer", ""), doc, where, &text, fail) != 0) {
        text_buffer_clear(&text);
        return fail->status;
    }
    *answer = n;
    for (size_t i = 0; i < n && *answer == n; i++)
        if (strcmp(json_string_value(json_array_get(choices, i)), text.text) == 0)
            *answer = i;
    char *end;
    unsigned long long number = strtoull(text.text, &end, 10);
    if (*answer == n && end != text.text && *end == 0 && number < n)
        *answer = (size_t)number;
    if (*answer == n && text.bytes == 1 && text.text[0] >= 'A' && (size_t)(text.text[0] - 'A') < n)
        *answer = (size_t)(text.text[0] - 'A');
    if (*answer == n)
        fail_set(fail, FAIL_FORMAT,
            "%s: answer: expected the number, letter or text of one of %zu choices, found \"%.80s\"",
            where, n, text.text);
    text_buffer_clear(&text);
    return fail->status;
}

static int append_target(
    const reader_t *r, json_t *doc, const char *where, text_buffer_t *out, fail_t *fail)
{
    if (r->task->kind == EVAL_GENERATE)
        return template_render(task_field(r->task, "target", ""), doc, where, out, fail);
    size_t answer;
    json_t *choices = choices_of(r, doc, where, fail);
    if (choices != NULL && find_answer(r, doc, choices, where, &answer, fail) == 0) {
        json_t *text = json_array_get(choices, answer);
        text_buffer_append(out, json_string_value(text), json_string_length(text), fail);
    }
    json_decref(choices);
    return fail->status;
}

static size_t characters(const char *text)
{
    size_t n = 0;
    for (; *text != 0; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* White space at the context's end belongs to the continuation, since tokens begin with it. The
 * two are encoded as one text, and what goes beyond the context's own tokens is scored. */
static int encode_pair(const reader_t *r, const text_buffer_t *prompt, const char *before,
    const char *choice, eval_job_t *job, fail_t *fail)
{
    text_buffer_t whole = {0};
    tokenizer_ids_t context = {0};
    size_t n = prompt->bytes;
    while (n > 0 && isspace((unsigned char)prompt->text[n - 1]))
        n--;
    text_buffer_append(&whole, prompt->text, prompt->bytes, fail);
    text_buffer_append(&whole, before, strlen(before), fail);
    text_buffer_append(&whole, choice, strlen(choice), fail);
    if (fail->status == 0 &&
        tokenizer_encode(r->tokenizer, whole.text, n, true, &context, fail) == 0)
        tokenizer_encode(r->tokenizer, whole.text, whole.bytes, true, &job->ids, fail);
    if (fail->status == 0 && (context.count == 0 || job->ids.count <= context.count))
        fail_set(fail, FAIL_FORMAT,
            "choice \"%.40s\": expected tokens before it and of its own, found none", choice);
    job->n_scored = job->ids.count - context.count;
    job->weight = size_max(1, characters(choice));
    text_buffer_clear(&whole);
    tokenizer_ids_clear(&context);
    return fail->status;
}

static int read_choice(
    const reader_t *r, json_t *doc, const char *where, eval_item_t *item, fail_t *fail)
{
    text_buffer_t prompt = {0};
    const char *before = task_field(r->task, "before_choice", r->task->chat ? "" : " ");
    json_t *choices = choices_of(r, doc, where, fail);
    if (choices != NULL && find_answer(r, doc, choices, where, &item->answer, fail) == 0)
        render_prompt(r, doc, where, &prompt, fail);
    size_t n = json_array_size(choices);
    item->jobs = calloc(n + 1, sizeof *item->jobs);
    if (item->jobs == NULL)
        fail_set(fail, FAIL_MEMORY, "%s: out of memory", where);
    for (size_t i = 0; i < n && fail->status == 0; i++) {
        fail_t malformed = {0};
        item->n_jobs = i + 1;
        if (encode_pair(r, &prompt, before, json_string_value(json_array_get(choices, i)),
                &item->jobs[i], &malformed) != 0)
            fail_set(fail, malformed.status, "%s: %s", where, malformed.message);
    }
    json_decref(choices);
    text_buffer_clear(&prompt);
    return fail->status;
}

/* ---- Items ----------------------------------------------------------------------------------- */

static uint64_t digest_of(const eval_item_t *item)
{
    uint64_t digest = 0;
    for (size_t j = 0; j < item->n_jobs; j++) {
        const eval_job_t *job = &item->jobs[j];
        const uint64_t head[3] = {digest, job->ids.count, job->n_scored};
        digest = XXH3_64bits_withSeed(
            job->ids.ids, job->ids.count * sizeof(int32_t), XXH3_64bits(head, sizeof head));
    }
    return digest;
}

static eval_item_t *next_item(reader_t *r, fail_t *fail)
{
    eval_task_t *task = r->task;
    if (array_reserve(&task->items, &r->capacity, task->n_items + 1, sizeof *task->items,
            task->data_path, fail) != 0)
        return NULL;
    eval_item_t *item = &task->items[task->n_items];
    *item = (eval_item_t){.index = task->n_items};
    task->n_items++;
    return item;
}

/* The id: what the task's template says, or the item's number. */
static int name_item(const eval_task_t *task, json_t *doc, const char *where, size_t number,
    eval_item_t *item, fail_t *fail)
{
    const char *text = task_field(task, "id", NULL);
    text_buffer_t id = {0};
    char counted[32];
    int length = snprintf(counted, sizeof counted, "%zu", number);
    if (text == NULL)
        text_buffer_append(&id, counted, (size_t)length, fail);
    else
        template_render(text, doc, where, &id, fail);
    if (fail->status == 0 && id.bytes == 0)
        fail_set(fail, FAIL_FORMAT, "%s: id: expected a text, found an empty one", where);
    item->id = id.text;
    return fail->status;
}

static int read_line(reader_t *r, json_t *doc, const char *where, size_t number, fail_t *fail)
{
    eval_item_t *item = next_item(r, fail);
    if (item == NULL)
        return fail->status;
    if (!json_is_object(doc))
        return fail_set(fail, FAIL_FORMAT, "%s: expected an object", where);
    name_item(r->task, doc, where, number, item, fail);
    if (fail->status == 0 && r->task->kind == EVAL_GENERATE)
        read_generate(r, doc, where, item, fail);
    else if (fail->status == 0)
        read_choice(r, doc, where, item, fail);
    item->digest = digest_of(item);
    return fail->status;
}

/* ---- Perplexity ------------------------------------------------------------------------------ */

/* Bytes of the tokens, and the words that begin in them. after_space: whether what comes before
 * them ends in white space; updated. */
static void measure(
    const reader_t *r, const int32_t *ids, size_t n, bool *after_space, eval_item_t *item)
{
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 0;
        const char *text = tokenizer_bytes(r->tokenizer, ids[i], &bytes);
        for (size_t at = 0; text != NULL && at < bytes; at++) {
            bool space = isspace((unsigned char)text[at]) != 0;
            item->words += *after_space && !space;
            *after_space = space;
        }
        item->bytes += bytes;
    }
}

/* One window: scores ids [first, end), after as many before them as the window has room for. */
static int add_window(reader_t *r, const tokenizer_ids_t *ids, size_t first, size_t end,
    const char *id, bool *after_space, fail_t *fail)
{
    eval_item_t *item = next_item(r, fail);
    if (item == NULL)
        return fail->status;
    size_t begin = end > r->task->window + 1 ? end - r->task->window - 1 : 0;
    size_t n = end - begin;
    item->id = strdup(id);
    item->jobs = calloc(1, sizeof *item->jobs);
    int32_t *copy = malloc(n * sizeof *copy);
    if (item->id == NULL || item->jobs == NULL || copy == NULL) {
        free(copy);
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", r->task->data_path);
    }
    memcpy(copy, ids->ids + begin, n * sizeof *copy);
    item->n_jobs = 1;
    item->jobs[0].ids = (tokenizer_ids_t){copy, n, n};
    item->jobs[0].n_scored = end - first;
    item->digest = digest_of(item);
    measure(r, ids->ids + first, end - first, after_space, item);
    return 0;
}

/* Cuts a text into windows. The first scores up to `window` tokens, later ones `stride` each. */
static int add_text(reader_t *r, const char *text, size_t bytes, const char *id, fail_t *fail)
{
    const eval_task_t *task = r->task;
    const char *prefix = task_field(task, "prefix", "");
    tokenizer_ids_t ids = {0};
    bool after_space = true;
    if (tokenizer_encode(r->tokenizer, prefix, strlen(prefix), true, &ids, fail) == 0)
        tokenizer_encode(r->tokenizer, text, bytes, false, &ids, fail);
    size_t n_windows = 0;
    for (size_t first = 1, end; first < ids.count && fail->status == 0; first = end) {
        char name[4400];
        end = size_min(ids.count, first + (first == 1 ? task->window : task->stride));
        snprintf(name, sizeof name, "%s:%zu", id, n_windows++);
        add_window(r, &ids, first, end, name, &after_space, fail);
    }
    tokenizer_ids_clear(&ids);
    if (fail->status == 0 && n_windows == 0)
        return fail_set(
            fail, FAIL_FORMAT, "%s: item %s: expected two tokens or more", task->data_path, id);
    return fail->status;
}

static int read_document(reader_t *r, json_t *doc, const char *where, size_t number, fail_t *fail)
{
    eval_item_t named = {0};
    text_buffer_t text = {0};
    text_buffer_append(&text, "", 0, fail);
    if (name_item(r->task, doc, where, number, &named, fail) == 0 &&
        template_render(task_field(r->task, "text", ""), doc, where, &text, fail) == 0)
        add_text(r, text.text, text.bytes, named.id, fail);
    free(named.id);
    text_buffer_clear(&text);
    return fail->status;
}

/* ---- All of it ------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
    const eval_item_t *const *x = a, *const *y = b;
    int order = strcmp((*x)->id, (*y)->id);
    return order != 0 ? order : ((*x)->index > (*y)->index) - ((*x)->index < (*y)->index);
}

static int check_ids(const eval_task_t *task, fail_t *fail)
{
    const eval_item_t **sorted = calloc(task->n_items + 1, sizeof(eval_item_t *));
    if (sorted == NULL)
        return fail_set(fail, FAIL_MEMORY, "%s: out of memory", task->data_path);
    for (size_t i = 0; i < task->n_items; i++)
        sorted[i] = &task->items[i];
    qsort(sorted, task->n_items, sizeof *sorted, compare_ids);
    for (size_t i = 1; i < task->n_items && fail->status == 0; i++)
        if (strcmp(sorted[i - 1]->id, sorted[i]->id) == 0)
            fail_set(fail, FAIL_FORMAT, "%s: items %zu and %zu have the same id \"%.80s\"",
                task->data_path, sorted[i - 1]->index + 1, sorted[i]->index + 1, sorted[i]->id);
    free(sorted);
    return fail->status;
}

static int read_lines(reader_t *r, eval_text_t rest, size_t limit, fail_t *fail)
{
    const char *line;
    size_t bytes, number = 0, n_read = 0;
    bool perplexity = r->task->kind == EVAL_PERPLEXITY;
    while ((limit == 0 || n_read < limit) && fail->status == 0 &&
           next_line(&rest, &line, &bytes, &number)) {
        char where[WHERE_BYTES];
        json_t *doc = NULL;
        snprintf(where, sizeof where, "%s: line %zu", r->task->data_path, number);
        if (json_line_read(line, bytes, where, &doc, fail) == 0) {
            if (perplexity)
                read_document(r, doc, where, n_read, fail);
            else
                read_line(r, doc, where, n_read, fail);
        }
        json_decref(doc);
        n_read++;
    }
    if (fail->status == 0 && r->task->n_items == 0)
        fail_set(fail, FAIL_FORMAT, "%s: expected a JSON object on each line, found none",
            r->task->data_path);
    return fail->status;
}

int eval_items_read(eval_task_t *task, eval_text_t data, eval_text_t shots, size_t limit,
    const tokenizer_t *tokenizer, fail_t *fail)
{
    reader_t reader = {.task = task, .tokenizer = tokenizer};
    bool whole = task->kind == EVAL_PERPLEXITY && task_field(task, "text", NULL) == NULL;
    if (read_shots(&reader, shots, fail) == 0 && !whole)
        read_lines(&reader, data, limit, fail);
    else if (fail->status == 0)
        add_text(&reader, data.text, data.bytes, "text", fail);
    /* Of one text, the limit is of windows. */
    while (whole && limit > 0 && task->n_items > limit)
        eval_item_clear(&task->items[--task->n_items]);
    for (size_t i = 0; i < reader.n_shots; i++)
        json_decref(reader.shots[i]);
    free(reader.shots);
    return fail->status == 0 ? check_ids(task, fail) : fail->status;
}
