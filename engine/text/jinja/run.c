/* Memory, errors, bounds and growing texts of a parsing or a rendering. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/jinja/jinja_internal.h"
#include "engine/text/unicode.h"

#define CHUNK_BYTES ((size_t)64 << 10)

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, size;
    _Alignas(16) char bytes[];
};

static struct arena_chunk *chunk_new(run_t *run, size_t bytes)
{
    size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    if (size > JINJA_MEMORY_MAX - run->arena.bytes)
        jinja_fail(run, "the template needs more than %zu MiB of memory", JINJA_MEMORY_MAX >> 20);
    struct arena_chunk *chunk = malloc(sizeof *chunk + size);
    if (chunk == NULL)
        jinja_fail_memory(run, "chat template");
    *chunk = (struct arena_chunk){.size = size};
    run->arena.bytes += size;
    return chunk;
}

void *jinja_arena_alloc(run_t *run, size_t bytes)
{
    if (bytes > JINJA_MEMORY_MAX)
        jinja_fail(run, "the template needs more than %zu MiB of memory", JINJA_MEMORY_MAX >> 20);
    bytes = (bytes + 15) & ~(size_t)15;
    struct arena_chunk *first = run->arena.chunks, *chunk = first;
    if (first == NULL || bytes > first->size - first->used) {
        chunk = chunk_new(run, bytes);
        /* What was large and is full goes behind the chunk that still has room. */
        if (first != NULL && bytes > CHUNK_BYTES / 2) {
            chunk->next = first->next;
            first->next = chunk;
        } else {
            chunk->next = first;
            run->arena.chunks = chunk;
        }
    }
    void *memory = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return memset(memory, 0, bytes);
}

void *jinja_arena_grow(run_t *run, const void *items, size_t *capacity, size_t item_bytes)
{
    size_t larger = *capacity > 0 ? *capacity * 2 : 4;
    void *grown = jinja_arena_alloc(run, larger * item_bytes);
    if (*capacity > 0)
        memcpy(grown, items, *capacity * item_bytes);
    *capacity = larger;
    return grown;
}

void jinja_arena_free(arena_t *arena)
{
    while (arena->chunks != NULL) {
        struct arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
    *arena = (arena_t){0};
}

/* The error's text is not of the arena, which may be what ran out. */
static void error_add(run_t *run, const char *text, size_t bytes)
{
    char *grown = realloc(run->error.text, run->error.bytes + bytes + 1);
    if (grown == NULL)
        return;
    if (bytes > 0)
        memcpy(grown + run->error.bytes, text, bytes);
    run->error.text = grown;
    run->error.bytes += bytes;
    grown[run->error.bytes] = 0;
}

static _Noreturn void fail_text(run_t *run, const char *text, size_t bytes)
{
    run->error.bytes = 0;
    error_add(run, text, bytes);
    if (run->status == 0)
        run->status = FAIL_USAGE;
    longjmp(run->escape, 1);
}

void jinja_fail(run_t *run, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fail_text(run, text, strlen(text));
}

void jinja_fail_string(run_t *run, const string_t *message)
{
    fail_text(run, message->text, message->bytes);
}

void jinja_fail_memory(run_t *run, const char *what)
{
    run->status = FAIL_MEMORY;
    jinja_fail(run, "%s: not enough memory", what);
}

void jinja_run_step(run_t *run, size_t steps)
{
    run->steps += steps;
    if (run->steps > JINJA_STEPS_MAX)
        jinja_fail(run, "the template takes more than %zu steps", JINJA_STEPS_MAX);
}

void jinja_run_enter(run_t *run)
{
    jinja_run_step(run, 1);
    if (++run->depth > JINJA_DEPTH_MAX)
        jinja_fail(run,
            "maximum recursion depth exceeded: the template nests calls or expressions "
            "more than %d deep",
            JINJA_DEPTH_MAX);
}

void jinja_buffer_add(run_t *run, buffer_t *buffer, const char *text, size_t bytes)
{
    if (bytes > JINJA_OUTPUT_MAX - buffer->bytes)
        jinja_fail(run, "the template writes more than %zu MiB", JINJA_OUTPUT_MAX >> 20);
    if (buffer->bytes + bytes > buffer->capacity) {
        size_t capacity = buffer->capacity * 2 > 64 ? buffer->capacity * 2 : 64;
        if (capacity < buffer->bytes + bytes)
            capacity = buffer->bytes + bytes;
        char *grown = jinja_arena_alloc(run, capacity);
        if (buffer->bytes > 0)
            memcpy(grown, buffer->text, buffer->bytes);
        buffer->text = grown;
        buffer->capacity = capacity;
    }
    if (bytes > 0)
        memcpy(buffer->text + buffer->bytes, text, bytes);
    buffer->bytes += bytes;
    jinja_run_step(run, bytes / 16);
}

void jinja_buffer_text(run_t *run, buffer_t *buffer, const char *text)
{
    jinja_buffer_add(run, buffer, text, strlen(text));
}

void jinja_buffer_string(run_t *run, buffer_t *buffer, const string_t *string)
{
    jinja_buffer_add(run, buffer, string->text, string->bytes);
}

void jinja_buffer_point(run_t *run, buffer_t *buffer, uint32_t point)
{
    char text[4];
    if (point >= 0xD800 && point < 0xE000) {
        text[0] = (char)0xED;
        text[1] = (char)(0x80 | (point >> 6 & 0x3F));
        text[2] = (char)(0x80 | (point & 0x3F));
        jinja_buffer_add(run, buffer, text, 3);
    } else {
        jinja_buffer_add(run, buffer, text, utf8_encode(point, text));
    }
}

void jinja_buffer_format(run_t *run, buffer_t *buffer, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    jinja_buffer_text(run, buffer, text);
}

value_t jinja_buffer_value(run_t *run, const buffer_t *buffer)
{
    return jinja_value_string(
        jinja_string_wrap(run, buffer->text == NULL ? "" : buffer->text, buffer->bytes));
}
