/* Bytes of a terminal to keys: characters, arrows, and texts that are pasted (bracketed paste).
 *
 * Pure: reads no descriptor. Sequences may be cut anywhere between two bytes. Bytes that are not
 * UTF-8 become U+FFFD; escape sequences that are not known are dropped. */
#ifndef CHOIR_LAUNCH_KEYS_H
#define CHOIR_LAUNCH_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

/* The longest paste that is taken: more than any context holds. */
#define KEYS_MAX_PASTE_BYTES ((size_t)64 << 20)

typedef enum key_kind {
    KEY_NONE, /* not complete yet, or unknown */
    KEY_CHARACTER,
    KEY_ALT, /* Alt and a character */
    KEY_UP,
    KEY_DOWN,
    KEY_LEFT,
    KEY_RIGHT,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_HOME,
    KEY_END,
    KEY_DELETE,
    KEY_PASTE
} key_kind_t;

typedef struct key_event {
    key_kind_t kind;
    uint32_t character; /* KEY_CHARACTER, KEY_ALT */
} key_event_t;

typedef enum keys_state {
    KEYS_PLAIN,
    KEYS_UTF8,    /* within a character */
    KEYS_ESCAPE,  /* after ESC */
    KEYS_SS3,     /* after ESC O */
    KEYS_CSI,     /* after ESC [ */
    KEYS_PASTING, /* between ESC [200~ and ESC [201~ */
} keys_state_t;

/* Zero-initialise; release with keys_clear. */
typedef struct keys {
    keys_state_t state;
    bool alt; /* the character that begins was preceded by ESC */
    uint32_t character, smallest;
    int more; /* bytes of the character still to come */
    char sequence[16];
    size_t n_sequence;
    text_buffer_t paste; /* with KEY_PASTE, until the next call: newlines are \n, no zero bytes */
    bool paste_lost;     /* it was longer than KEYS_MAX_PASTE_BYTES, or than the memory */
} keys_t;

/* Takes one byte. A byte that ends an incomplete character is not part of it: such a character
 * comes as U+FFFD with *again set, and the byte is to be passed once more. */
key_event_t keys_push(keys_t *keys, unsigned char byte, bool *again);
/* Forgets what is incomplete. */
void keys_reset(keys_t *keys);
void keys_clear(keys_t *keys);

#endif
