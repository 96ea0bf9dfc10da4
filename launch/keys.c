#include "launch/keys.h"

#include <string.h>

#define ESC 0x1b
#define REPLACEMENT 0xfffd

static const char paste_begin[] = "200~", paste_end[] = "\x1b[201~";

void keys_reset(keys_t *keys)
{
    keys->state = KEYS_PLAIN;
    keys->alt = false;
    keys->n_sequence = 0;
    keys->paste.bytes = 0;
}

void keys_clear(keys_t *keys)
{
    text_buffer_clear(&keys->paste);
    *keys = (keys_t){0};
}

/* ---- Pastes ---------------------------------------------------------------------------------- */

/* Terminals send \r for a newline, some \r\n. Zero bytes would end a text. */
static void normalise(text_buffer_t *paste)
{
    size_t n = 0;
    for (size_t i = 0; i < paste->bytes; i++) {
        char c = paste->text[i];
        if (c == 0 || (c == '\n' && i > 0 && paste->text[i - 1] == '\r'))
            continue;
        paste->text[n++] = c;
    }
    for (size_t i = 0; i < n; i++)
        if (paste->text[i] == '\r')
            paste->text[i] = '\n';
    paste->bytes = n;
    paste->text[n] = 0;
}

/* Looks for the end in a window of its own, since a paste that is lost has an end, too. */
static key_event_t push_pasted(keys_t *keys, unsigned char byte)
{
    const size_t n_end = sizeof paste_end - 1;
    const char text = (char)byte;
    fail_t ignored = {0};
    if (keys->n_sequence == n_end)
        memmove(keys->sequence, keys->sequence + 1, --keys->n_sequence);
    keys->sequence[keys->n_sequence++] = text;
    if (!keys->paste_lost && (keys->paste.bytes == KEYS_MAX_PASTE_BYTES ||
                                 text_buffer_append(&keys->paste, &text, 1, &ignored) != 0)) {
        keys->paste_lost = true;
        text_buffer_clear(&keys->paste);
    }
    if (keys->n_sequence < n_end || memcmp(keys->sequence, paste_end, n_end) != 0)
        return (key_event_t){0};
    if (!keys->paste_lost) {
        keys->paste.bytes -= n_end;
        normalise(&keys->paste);
    }
    keys->state = KEYS_PLAIN;
    return (key_event_t){.kind = KEY_PASTE};
}

/* ---- Escape sequences ------------------------------------------------------------------------ */

static key_event_t key(key_kind_t kind)
{
    return (key_event_t){.kind = kind};
}

/* The final byte of ESC [ and of ESC O, with "1;5" (Ctrl) or "1;3" (Alt) before it or nothing. */
static key_event_t letter_key(char letter, bool modified)
{
    switch (letter) {
    case 'A':
        return key(KEY_UP);
    case 'B':
        return key(KEY_DOWN);
    case 'C':
        return key(modified ? KEY_WORD_RIGHT : KEY_RIGHT);
    case 'D':
        return key(modified ? KEY_WORD_LEFT : KEY_LEFT);
    case 'H':
        return key(KEY_HOME);
    case 'F':
        return key(KEY_END);
    default:
        return key(KEY_NONE);
    }
}

static key_event_t sequence_key(keys_t *keys)
{
    const char *sequence = keys->sequence;
    char last = sequence[keys->n_sequence - 1];
    keys->state = KEYS_PLAIN;
    if (strcmp(sequence, paste_begin) == 0) {
        keys->state = KEYS_PASTING;
        keys->n_sequence = 0;
        keys->paste.bytes = 0;
        keys->paste_lost = false;
        return key(KEY_NONE);
    }
    if (last != '~') {
        const char *modifier = strchr(sequence, ';');
        return letter_key(last, modifier != NULL && (modifier[1] == '5' || modifier[1] == '3'));
    }
    if (strcmp(sequence, "1~") == 0 || strcmp(sequence, "7~") == 0)
        return key(KEY_HOME);
    if (strcmp(sequence, "4~") == 0 || strcmp(sequence, "8~") == 0)
        return key(KEY_END);
    return key(strcmp(sequence, "3~") == 0 ? KEY_DELETE : KEY_NONE);
}

/* Parameters and intermediates are 0x20 to 0x3f, the final byte is 0x40 to 0x7e; anything else
 * ends a sequence that is none. */
static key_event_t push_sequence(keys_t *keys, unsigned char byte, bool *again)
{
    if (byte < 0x20 || byte > 0x7e) {
        keys->state = KEYS_PLAIN;
        *again = true;
        return key(KEY_NONE);
    }
    /* What is too long to be a known one keeps its beginning, which is not known either. */
    if (keys->n_sequence + 1 < sizeof keys->sequence)
        keys->sequence[keys->n_sequence++] = (char)byte;
    keys->sequence[keys->n_sequence] = 0;
    return byte >= 0x40 ? sequence_key(keys) : key(KEY_NONE);
}

/* ---- Characters ------------------------------------------------------------------------------ */

static key_event_t character(keys_t *keys, uint32_t c)
{
    key_event_t event = {.kind = keys->alt ? KEY_ALT : KEY_CHARACTER, .character = c};
    keys->state = KEYS_PLAIN;
    keys->alt = false;
    return event;
}

static key_event_t begin_character(keys_t *keys, unsigned char byte)
{
    if (byte < 0x80)
        return character(keys, byte);
    keys->more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
    if (byte < 0xc2 || byte > 0xf4)
        return character(keys, REPLACEMENT);
    static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    keys->smallest = smallest[keys->more];
    keys->character = byte & (0x3fu >> keys->more);
    keys->state = KEYS_UTF8;
    return key(KEY_NONE);
}

static key_event_t continue_character(keys_t *keys, unsigned char byte, bool *again)
{
    if ((byte & 0xc0) != 0x80) {
        *again = true;
        return character(keys, REPLACEMENT);
    }
    keys->character = keys->character << 6 | (byte & 0x3f);
    if (--keys->more > 0)
        return key(KEY_NONE);
    bool valid = keys->character >= keys->smallest && keys->character <= 0x10ffff &&
                 (keys->character < 0xd800 || keys->character > 0xdfff);
    return character(keys, valid ? keys->character : REPLACEMENT);
}

key_event_t keys_push(keys_t *keys, unsigned char byte, bool *again)
{
    *again = false;
    switch (keys->state) {
    case KEYS_UTF8:
        return continue_character(keys, byte, again);
    case KEYS_SS3:
        keys->state = KEYS_PLAIN;
        return letter_key((char)byte, false);
    case KEYS_CSI:
        return push_sequence(keys, byte, again);
    case KEYS_PASTING:
        return push_pasted(keys, byte);
    case KEYS_ESCAPE:
        keys->state = byte == '[' ? KEYS_CSI : byte == 'O' ? KEYS_SS3 : KEYS_PLAIN;
        keys->n_sequence = 0;
        if (keys->state != KEYS_PLAIN)
            return key(KEY_NONE);
        if (byte == ESC) {
            keys->state = KEYS_ESCAPE;
            return key(KEY_NONE);
        }
        keys->alt = true;
        return begin_character(keys, byte);
    default:
        if (byte == ESC) {
            keys->state = KEYS_ESCAPE;
            return key(KEY_NONE);
        }
        return begin_character(keys, byte);
    }
}
