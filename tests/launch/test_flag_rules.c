#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "launch/command.h"

#define MOST_WORDS 16

/* What is said of the flags of a command line, "" when all of them are read. */
static const char *verdict_on(const char *line)
{
    static char words[512], message[FAIL_MESSAGE_BYTES];
    char *argv[MOST_WORDS];
    int argc = 0;
    fail_t fail = {0};
    args_given_t given = {0};
    _Alignas(16) char flags[COMMAND_FLAGS_BYTES];
    strcpy(words, line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    const command_t *command = command_find(argv[0]);
    assert_non_null(command);
    memcpy(flags, command->defaults, command->flags_bytes);
    assert_int_equal(args_parse(command->parts, argc - 1, argv + 1, flags, &given, &fail), 0);
    args_check_rules(command->rules, flags, &given, &fail);
    assert_int_equal(fail.status, fail.message[0] == 0 ? 0 : FAIL_USAGE);
    strcpy(message, fail.message);
    return message;
}

static void flags_that_are_not_read_are_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"shard --check S --level 3", "--level: has no effect with --check"},
        {"shard --check S --file-size 3", "--file-size: has no effect with --check"},
        {"shard --list S --threads 3", "--threads: has no effect with --list"},
        {"shard --unpack S --out D --layers 3", "--layers: has no effect with --unpack"},
        {"eval --compare A B --limit 3", "--limit: has no effect with --compare"},
        {"eval --canonical A --dtype f32", "--dtype: has no effect with --canonical"},
        {"eval --task T --own-weights", "--own-weights: has no effect without --mesh"},
        {"verify --candidate A --reference B --threads 1",
            "--threads: has no effect with --candidate"},
        {"plan --cluster F", "--cluster: has no effect without --predict or --against"},
        {"plan --predict --cluster F --shares 1,2", "--shares: has no effect with --predict"},
        {"plan --against R --cluster F --batch 2", "--batch: has no effect with --against"},
        {"bench --gemm --gen-tokens 2", "--gen-tokens: has no effect with --gemm"},
        {"bench --kernels --threads 2", "--threads: has no effect with --kernels"},
        {"bench --cluster F --context 9", "--context: has no effect with --cluster"},
        {"bench --sweep auto --threads 2",
            "--threads: has no effect with --sweep, which has threads="},
        {"bench --config F --stage D", "--stage: has no effect with --config"},
        {"doctor --kv-tokens 9", "--kv-tokens: has no effect without --model or --config"},
        {"generate --top-k 3 Hello", "--top-k: has no effect without --temperature or --sample"},
        {"generate --seed 3 Hello", "--seed: has no effect without --temperature or --sample"},
        {"generate --template-vars {} Hello",
            "--template-vars: has no effect without --chat or --prompts"},
        {"generate --dtype f32 --dot amx Hello", "--dot: has no effect with --dtype f32 or f64"},
        {"generate --order torch-avx2 --dot chain Hello",
            "--dot: has no effect with --order torch-avx2, which has a dot product of its own"},
        {"verify --order torch-avx2 --dot amx --reference B",
            "--dot: has no effect with --order torch-avx2, which has a dot product of its own"},
        {"chat --raw --chat-template F", "--chat-template: has no effect with --raw"},
        {"worker --own-weights", "--own-weights: has no effect without --mesh"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(verdict_on(cases[i][0]), cases[i][1]);
}

static void flags_that_are_read_pass(void **state)
{
    (void)state;
    static const char *const lines[] = {"shard --model M --out S --level 3 --threads 2",
        "shard --check S --threads 2 --quiet", "shard --list S --verbose",
        "eval --compare A B --quiet", "eval --task T --mesh 2x1 --own-weights",
        "plan --ranks 3 --shares 1,2,3 --node-ranks 2",
        "plan --predict --cluster F --threads 2 --json -", "plan --against R --cluster F --predict",
        "verify --candidate A --reference B --layers 0 --tolerance 1 --partial --json",
        "bench --gemm --config F --bind core --json -", "bench --kernels --repeat 1 --csv -",
        "bench --cluster F --sweep auto --repeat 2", "bench --sweep auto --own-weights --batch 2",
        "doctor --config F --kv-tokens 9", "generate --temperature 0 --seed 3 Hello",
        "generate --sample --top-k 3 Hello", "generate --prompts F --seed 3 --chat-template F",
        "generate --chat --template-vars {} Hello", "generate --dtype bf16 --dot amx Hello",
        "generate --dtype f32 --trace F Hello", "generate --dtype f32 --dot auto Hello",
        "generate --order torch-avx2 Hello", "generate --order torch --dot chain Hello",
        "chat --seed 3 --top-p 0.5"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_string_equal(verdict_on(lines[i]), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flags_that_are_not_read_are_named),
        cmocka_unit_test(flags_that_are_read_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
