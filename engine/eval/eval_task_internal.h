/* A task's data file to items: lines to prompts, prompts to token ids. Part of eval_task.h. */
#ifndef CHOIR_EVAL_EVAL_TASK_INTERNAL_H
#define CHOIR_EVAL_EVAL_TASK_INTERNAL_H

#include "engine/eval/eval_task.h"

typedef struct eval_text {
    const char *text;
    size_t bytes;
} eval_text_t;

/* Fills task->items from the text of the data file and of the file of examples. limit: only the
 * first so many items; 0: all. FAIL_FORMAT names file, line and field; also for ids that occur
 * twice. What was read stays in the task. */
int eval_items_read(eval_task_t *task, eval_text_t data, eval_text_t shots, size_t limit,
    const tokenizer_t *tokenizer, fail_t *fail);
void eval_item_clear(eval_item_t *item);

#endif
