#include "engine/run/logit_bias.h"

#include <errno.h>
#include <stdlib.h>

int logit_bias_read(json_t *object, const char *name, sampler_bias_t *bias, size_t *n, fail_t *fail)
{
    json_t *map = json_object_get(object, "logit_bias"), *value;
    const char *key;
    if (map == NULL || json_is_null(map))
        return 0;
    *n = 0;
    if (!json_is_object(map) || json_object_size(map) > SAMPLER_MAX_BIAS)
        return fail_set(fail, FAIL_FORMAT,
            "%s: logit_bias: expected an object of at most %d tokens", name, SAMPLER_MAX_BIAS);
    json_object_foreach (map, key, value) {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        double number = json_number_value(value);
        if (*end != 0 || end == key || errno != 0 || id < 0 || id > INT32_MAX ||
            !json_is_number(value) || !(number >= -100 && number <= 100))
            return fail_set(fail, FAIL_FORMAT,
                "%s: logit_bias: expected an id and -100 to 100, found \"%.40s\"", name, key);
        bias[(*n)++] = (sampler_bias_t){(int32_t)id, (float)number};
    }
    return 0;
}
