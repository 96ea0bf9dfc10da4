/* line_editor.h without libedit. */
#include "launch/line_editor.h"

line_editor_t *line_editor_open(
    int terminal, const struct termios *typed, line_read_t read, void *context)
{
    (void)terminal, (void)typed, (void)read, (void)context;
    return NULL;
}

void line_editor_close(line_editor_t *editor)
{
    (void)editor;
}

line_event_t line_editor_read(
    line_editor_t *editor, const char *prompt, char **text, size_t *bytes, fail_t *fail)
{
    (void)editor, (void)prompt, (void)bytes, (void)fail;
    *text = NULL;
    return LINE_ENDED;
}

void line_editor_remember(line_editor_t *editor, const char *text)
{
    (void)editor, (void)text;
}
