#include "engine/base/choice.h"

#include <stdio.h>
#include <string.h>

const char *choice_name(const choice_t *choices, int value)
{
    while (choices->name != NULL && choices->value != value)
        choices++;
    return choices->name;
}

bool choice_find(const choice_t *choices, const char *name, int *value)
{
    for (; choices->name != NULL; choices++)
        if (strcmp(choices->name, name) == 0) {
            *value = choices->value;
            return true;
        }
    return false;
}

void choice_list(const choice_t *choices, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; choices[i].name != NULL && used < bytes; i++)
        used +=
            (size_t)snprintf(text + used, bytes - used, "%s%s", i > 0 ? "|" : "", choices[i].name);
}
