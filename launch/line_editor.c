/* line_editor.h by libedit.
 *
 * libedit sees keys that next_key makes of what was typed: characters, and for everything else a
 * code of the range that UTF-8 terminals never send (C1 controls), bound to a command. It also
 * wants to set modes of a terminal, and to ask for its size. It gets a pseudo-terminal for that,
 * which nobody reads: the real terminal keeps the settings of its owner the whole session. */
#include "launch/line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "engine/base/log.h"
#include "engine/base/size.h"
#include "launch/keys.h"
#include "launch/wide_text.h"

#define MAX_REMEMBERED 1000
#define MAX_QUEUED 4
#define MAX_PROMPT 32
#define ESC 0x1b

enum { /* codes for libedit */
    DO_INSERT = 0x80,
    DO_CONTINUE,
    DO_LINE_UP,
    DO_LINE_DOWN,
    DO_HOME,
    DO_END,
    DO_DELETE,
    DO_WORD_LEFT,
    DO_WORD_RIGHT
};

typedef enum outcome {
    GOES_ON, /* what is typed decides */
    INTERRUPTED,
    ENDED,
    PASTED, /* a paste that is too long to be edited: it joins `before` */
    FAILED  /* a paste that memory does not hold: all is dropped, which is said */
} outcome_t;

struct line_editor {
    EditLine *edit;
    HistoryW *history;
    FILE *in, *out, *ignored;
    int terminal, pty;
    locale_t locale;
    line_read_t read;
    void *context;
    keys_t keys;
    wchar_t queue[MAX_QUEUED]; /* keys that libedit gets next */
    size_t n_queued;
    wchar_t prompt[MAX_PROMPT];
    wchar_t *inserted; /* what DO_INSERT inserts */
    outcome_t outcome;
    size_t cursor;        /* with PASTED */
    text_buffer_t before; /* the part of the text that is not edited any more */
};

/* ---- The screen ------------------------------------------------------------------------------ */

static struct winsize screen_size(const line_editor_t *editor)
{
    struct winsize size = {0};
    ioctl(editor->terminal, TIOCGWINSZ, &size);
    if (size.ws_row == 0)
        size.ws_row = 24;
    if (size.ws_col == 0)
        size.ws_col = 80;
    return size;
}

/* Draws the line again, at the place where its first row is, or on a new row. */
static void redraw(line_editor_t *editor, bool same_place)
{
    struct winsize size = screen_size(editor);
    const LineInfoW *line = el_wline(editor->edit);
    size_t column = wcslen(editor->prompt);
    size_t rows =
        wide_rows_above(line->buffer, (size_t)(line->cursor - line->buffer), size.ws_col, &column);
    fputs("\r", editor->out);
    if (same_place && rows > 0)
        fprintf(editor->out, "\x1b[%zuA", size_min(rows, size.ws_row));
    fputs("\x1b[J", editor->out);
    ioctl(editor->pty, TIOCSWINSZ, &size);
    el_resize(editor->edit);
    el_wset(editor->edit, EL_REFRESH);
}

/* ---- Keys ------------------------------------------------------------------------------------ */

static void enqueue(line_editor_t *editor, wchar_t key)
{
    if (editor->n_queued < MAX_QUEUED)
        editor->queue[editor->n_queued++] = key;
}

static void insert(line_editor_t *editor, wchar_t *text)
{
    free(editor->inserted);
    editor->inserted = text;
    if (text == NULL)
        editor->outcome = FAILED;
    else
        enqueue(editor, DO_INSERT);
}

static void take_paste(line_editor_t *editor)
{
    size_t count, column = wcslen(editor->prompt);
    const text_buffer_t *paste = &editor->keys.paste;
    wchar_t *text = wide_of_text(paste->text, paste->bytes, &count);
    if (editor->keys.paste_lost) {
        free(text);
        editor->outcome = FAILED;
        return;
    }
    const LineInfoW *line = el_wline(editor->edit);
    struct winsize size = screen_size(editor);
    size_t rows = wide_rows_above(
        line->buffer, (size_t)(line->lastchar - line->buffer), size.ws_col, &column);
    rows += text == NULL ? 0 : wide_rows_above(text, count, size.ws_col, &column);
    insert(editor, text);
    if (text != NULL && rows > size.ws_row / 2) {
        /* libedit cannot move in what is longer than the screen. */
        editor->n_queued = 0;
        editor->cursor = (size_t)(line->cursor - line->buffer);
        editor->outcome = PASTED;
    }
}

static void take_enter(line_editor_t *editor)
{
    const LineInfoW *line = el_wline(editor->edit);
    bool more = line->cursor == line->lastchar && line->lastchar > line->buffer &&
                line->lastchar[-1] == '\\';
    enqueue(editor, more ? DO_CONTINUE : '\n');
}

/* Up and down move within a text of several lines, and beyond its ends through the history. */
static void take_vertical(line_editor_t *editor, bool up)
{
    const LineInfoW *line = el_wline(editor->edit);
    const wchar_t *begin = up ? line->buffer : line->cursor,
                  *end = up ? line->cursor : line->lastchar;
    bool within = end > begin && wmemchr(begin, '\n', (size_t)(end - begin)) != NULL;
    if (up)
        enqueue(editor, within ? DO_LINE_UP : 'P' - '@');
    else
        enqueue(editor, within ? DO_LINE_DOWN : 'N' - '@');
}

static void take_character(line_editor_t *editor, uint32_t c, bool alt)
{
    if (c == '\n' || (alt && c == '\r')) {
        insert(editor, wcsdup(L"\n"));
    } else if (c == '\r') {
        take_enter(editor);
    } else if (alt && c < 0x80) {
        enqueue(editor, ESC);
        enqueue(editor, (wchar_t)c);
    } else if (!alt && (c < 0x80 || c > 0x9f)) {
        enqueue(editor, (wchar_t)c);
    }
}

static void take_key(line_editor_t *editor, key_event_t event)
{
    static const wchar_t codes[] = {[KEY_LEFT] = 'B' - '@',
        [KEY_RIGHT] = 'F' - '@',
        [KEY_WORD_LEFT] = DO_WORD_LEFT,
        [KEY_WORD_RIGHT] = DO_WORD_RIGHT,
        [KEY_HOME] = DO_HOME,
        [KEY_END] = DO_END,
        [KEY_DELETE] = DO_DELETE};
    switch (event.kind) {
    case KEY_NONE:
        break;
    case KEY_CHARACTER:
    case KEY_ALT:
        take_character(editor, event.character, event.kind == KEY_ALT);
        break;
    case KEY_UP:
    case KEY_DOWN:
        take_vertical(editor, event.kind == KEY_UP);
        break;
    case KEY_PASTE:
        take_paste(editor);
        break;
    default:
        enqueue(editor, codes[event.kind]);
    }
}

/* What libedit reads. An outcome that was decided here reaches libedit as a newline, whatever it
 * is in the middle of, so that the screen is left in order. */
static int next_key(EditLine *edit, wchar_t *out)
{
    line_editor_t *editor = NULL;
    el_wget(edit, EL_CLIENTDATA, &editor);
    while (editor->n_queued == 0 && editor->outcome == GOES_ON) {
        unsigned char byte;
        bool again;
        switch (editor->read(editor->context, &byte)) {
        case LINE_BYTE:
            do
                take_key(editor, keys_push(&editor->keys, byte, &again));
            while (again);
            break;
        case LINE_RESIZED:
            redraw(editor, true);
            break;
        case LINE_REDRAW:
            redraw(editor, false);
            break;
        case LINE_INTERRUPT:
            editor->outcome = INTERRUPTED;
            break;
        default:
            editor->outcome = ENDED;
        }
    }
    *out = '\n';
    if (editor->n_queued > 0) {
        *out = editor->queue[0];
        wmemmove(editor->queue, editor->queue + 1, --editor->n_queued);
    }
    return 1;
}

/* ---- Commands of libedit's ------------------------------------------------------------------- */

static unsigned char do_insert(EditLine *edit, wint_t key)
{
    line_editor_t *editor = NULL;
    (void)key;
    el_wget(edit, EL_CLIENTDATA, &editor);
    if (editor->inserted == NULL || editor->inserted[0] == 0)
        return CC_NORM;
    return el_winsertstr(edit, editor->inserted) == 0 ? CC_REFRESH : CC_ERROR;
}

static unsigned char do_continue(EditLine *edit, wint_t key)
{
    (void)key;
    el_wdeletestr(edit, 1);
    return el_winsertstr(edit, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
}

/* To the ends of a line among several. */
static unsigned char do_home(EditLine *edit, wint_t key)
{
    const LineInfoW *line = el_wline(edit);
    int n = 0;
    (void)key;
    while (line->cursor - n > line->buffer && line->cursor[-n - 1] != '\n')
        n++;
    el_cursor(edit, -n);
    return CC_CURSOR;
}

static unsigned char do_end(EditLine *edit, wint_t key)
{
    const LineInfoW *line = el_wline(edit);
    int n = 0;
    (void)key;
    while (line->cursor + n < line->lastchar && line->cursor[n] != '\n')
        n++;
    el_cursor(edit, n);
    return CC_CURSOR;
}

static void bind_key(EditLine *edit, wchar_t code, const wchar_t *command)
{
    const wchar_t key[] = {code, 0};
    el_wset(edit, EL_BIND, key, command, NULL);
}

static void bind_all(EditLine *edit)
{
    el_wset(edit, EL_ADDFN, L"choir-insert", L"Insert a text", do_insert);
    el_wset(edit, EL_ADDFN, L"choir-continue", L"Go on in a new line", do_continue);
    el_wset(edit, EL_ADDFN, L"choir-home", L"Go to the begin of the line", do_home);
    el_wset(edit, EL_ADDFN, L"choir-end", L"Go to the end of the line", do_end);
    bind_key(edit, DO_INSERT, L"choir-insert");
    bind_key(edit, DO_CONTINUE, L"choir-continue");
    bind_key(edit, DO_HOME, L"choir-home");
    bind_key(edit, DO_END, L"choir-end");
    bind_key(edit, 'A' - '@', L"choir-home");
    bind_key(edit, 'E' - '@', L"choir-end");
    bind_key(edit, DO_LINE_UP, L"ed-prev-line");
    bind_key(edit, DO_LINE_DOWN, L"ed-next-line");
    bind_key(edit, DO_DELETE, L"ed-delete-next-char");
    bind_key(edit, DO_WORD_LEFT, L"ed-prev-word");
    bind_key(edit, DO_WORD_RIGHT, L"em-next-word");
    bind_key(edit, 'W' - '@', L"ed-delete-prev-word");
    bind_key(edit, 'U' - '@', L"vi-kill-line-prev");
    bind_key(edit, '\t', L"ed-insert");
}

/* ---- Opening --------------------------------------------------------------------------------- */

static wchar_t *give_prompt(EditLine *edit)
{
    line_editor_t *editor = NULL;
    el_wget(edit, EL_CLIENTDATA, &editor);
    return editor->prompt;
}

/* UTF-8 is what Choir reads and writes, whatever the environment says. */
static locale_t utf8_locale(void)
{
    static const char *const names[] = {"C.UTF-8", "en_US.UTF-8", ""};
    locale_t locale = (locale_t)0;
    for (size_t i = 0; i < 3 && locale == (locale_t)0; i++)
        locale = newlocale(LC_CTYPE_MASK, names[i], (locale_t)0);
    return locale;
}

/* The pseudo-terminal's side for libedit, with settings and size of the real one; -1 when there is
 * none. */
static int open_pty(line_editor_t *editor, const struct termios *typed)
{
    char name[64];
    struct winsize size = screen_size(editor);
    editor->pty = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (editor->pty < 0 || grantpt(editor->pty) != 0 || unlockpt(editor->pty) != 0 ||
        ptsname_r(editor->pty, name, sizeof name) != 0)
        return -1;
    int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) {
        tcsetattr(fd, TCSANOW, typed);
        ioctl(fd, TIOCSWINSZ, &size);
    }
    return fd;
}

static bool open_streams(line_editor_t *editor, const struct termios *typed)
{
    int in = open_pty(editor, typed), out = dup(editor->terminal);
    editor->in = in >= 0 ? fdopen(in, "r") : NULL;
    editor->out = out >= 0 ? fdopen(out, "w") : NULL;
    editor->ignored = fopen("/dev/null", "we"); /* libedit's words about terminals */
    if (editor->in == NULL && in >= 0)
        close(in);
    if (editor->out == NULL && out >= 0)
        close(out);
    return editor->in != NULL && editor->out != NULL && editor->ignored != NULL;
}

static bool open_edit(line_editor_t *editor)
{
    HistEventW event;
    char *up = NULL;
    editor->edit = el_init_fd("choir", editor->in, editor->out, editor->ignored, fileno(editor->in),
        fileno(editor->out), fileno(editor->ignored));
    editor->history = history_winit();
    if (editor->edit == NULL || editor->history == NULL)
        return false;
    history_w(editor->history, &event, H_SETSIZE, MAX_REMEMBERED);
    history_w(editor->history, &event, H_SETUNIQUE, 1);
    el_wset(editor->edit, EL_CLIENTDATA, editor);
    el_wset(editor->edit, EL_EDITOR, L"emacs");
    el_wset(editor->edit, EL_SIGNAL, 0);
    el_wset(editor->edit, EL_PROMPT, give_prompt);
    el_wset(editor->edit, EL_HIST, history_w, editor->history);
    el_wset(editor->edit, EL_GETCFN, next_key);
    bind_all(editor->edit);
    /* Without a way up nothing of several rows can be edited. */
    return el_get(editor->edit, EL_GETTC, "up", &up) == 0 && up != NULL && up[0] != 0;
}

line_editor_t *line_editor_open(
    int terminal, const struct termios *typed, line_read_t read, void *context)
{
    const char *type = getenv("TERM");
    if (type == NULL || type[0] == 0 || strcmp(type, "dumb") == 0)
        return NULL;
    line_editor_t *editor = calloc(1, sizeof *editor);
    if (editor == NULL)
        return NULL;
    *editor = (line_editor_t){.terminal = terminal, .pty = -1, .read = read, .context = context};
    editor->locale = utf8_locale();
    bool opened = false;
    if (editor->locale != (locale_t)0 && open_streams(editor, typed)) {
        locale_t before = uselocale(editor->locale);
        opened = open_edit(editor);
        uselocale(before);
    }
    if (!opened) {
        line_editor_close(editor);
        return NULL;
    }
    return editor;
}

void line_editor_close(line_editor_t *editor)
{
    if (editor == NULL)
        return;
    if (editor->edit != NULL)
        el_end(editor->edit);
    if (editor->history != NULL)
        history_wend(editor->history);
    FILE *const streams[] = {editor->in, editor->out, editor->ignored};
    for (size_t i = 0; i < 3; i++)
        if (streams[i] != NULL)
            fclose(streams[i]);
    if (editor->pty >= 0)
        close(editor->pty);
    if (editor->locale != (locale_t)0)
        freelocale(editor->locale);
    keys_clear(&editor->keys);
    free(editor->inserted);
    text_buffer_clear(&editor->before);
    free(editor);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static void set_prompt(line_editor_t *editor, const char *prompt)
{
    swprintf(editor->prompt, MAX_PROMPT, L"%s", prompt);
}

/* A long paste: what is before it on the line and itself are fixed now, what is behind it is
 * edited on. */
static int fix_paste(line_editor_t *editor, const wchar_t *line, size_t count, fail_t *fail)
{
    size_t cursor = size_min(editor->cursor, count);
    wchar_t *paste = editor->inserted;
    wide_append(&editor->before, line, cursor, fail);
    wide_append(&editor->before, paste, wcslen(paste), fail);
    wide_show_paste(editor->out, screen_size(editor).ws_col, paste, wcslen(paste));
    editor->inserted = NULL;
    editor->outcome = GOES_ON;
    if (count > cursor) {
        wchar_t *rest = wcsdup(line + cursor);
        if (rest != NULL)
            rest[count - cursor] = 0;
        insert(editor, rest);
    }
    free(paste);
    set_prompt(editor, ". ");
    return fail->status;
}

/* One call of libedit's. Whether another one is to follow. */
static bool read_part(line_editor_t *editor, fail_t *fail)
{
    int n = 0;
    const wchar_t *line = el_wgets(editor->edit, &n);
    size_t count = line == NULL || n <= 0 ? 0 : (size_t)n;
    if (count > 0 && line[count - 1] == '\n')
        count--;
    if (editor->outcome == PASTED)
        return fix_paste(editor, line, count, fail) == 0;
    if (editor->outcome != GOES_ON)
        return false;
    if (line == NULL && editor->before.bytes == 0)
        editor->outcome = ENDED;
    else
        wide_append(&editor->before, line, count, fail);
    return false;
}

line_event_t line_editor_read(
    line_editor_t *editor, const char *prompt, char **text, size_t *bytes, fail_t *fail)
{
    *text = NULL;
    *bytes = 0;
    locale_t before = uselocale(editor->locale);
    struct winsize size = screen_size(editor);
    ioctl(editor->pty, TIOCSWINSZ, &size);
    editor->outcome = GOES_ON;
    editor->n_queued = 0;
    editor->before = (text_buffer_t){0};
    set_prompt(editor, prompt);
    while (read_part(editor, fail))
        ;
    uselocale(before);
    keys_reset(&editor->keys);
    if (editor->outcome == FAILED) {
        log_write(LOG_ERROR, "a paste of more than %zu MiB, or than the memory holds; not taken",
            KEYS_MAX_PASTE_BYTES >> 20);
        editor->outcome = INTERRUPTED;
    }
    if (editor->outcome == GOES_ON && fail->status == 0)
        text_buffer_append(&editor->before, "", 0, fail);
    if (editor->outcome != GOES_ON || fail->status != 0) {
        text_buffer_clear(&editor->before);
        return editor->outcome == INTERRUPTED ? LINE_INTERRUPTED : LINE_ENDED;
    }
    *text = editor->before.text;
    *bytes = editor->before.bytes;
    editor->before = (text_buffer_t){0};
    return LINE_TEXT;
}

void line_editor_remember(line_editor_t *editor, const char *text)
{
    size_t count;
    HistEventW event;
    locale_t before = uselocale(editor->locale);
    wchar_t *wide = wide_of_text(text, strlen(text), &count);
    if (wide != NULL)
        history_w(editor->history, &event, H_ENTER, wide);
    free(wide);
    uselocale(before);
}
