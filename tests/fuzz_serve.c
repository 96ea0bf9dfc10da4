/* Fuzz target: the request parser of choir serve.
 *
 * Sources (fuzzing.h): engine/serve/api_{error,request}.c engine/run/{logit_bias,sampler}.c
 *
 * The first byte of an input says which kind of request it is; the rest is its text. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/serve/api_request.h"
#include "tests/fuzzing.h"

static const api_rules_t rules = {
    .model = "demo", .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1}};

static void check_error(const api_error_t *error)
{
    require(error->status == 400 || error->status == 404);
    require(error->message[0] != 0 && strchr(error->message, '\n') == NULL);
    json_t *value = api_error_json(error);
    require(value != NULL);
    json_decref(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    api_request_t request;
    api_error_t error = {0};
    if (size == 0)
        return 0;
    api_kind_t kind = data[0] % 2 == 0 ? API_COMPLETION : API_CHAT;
    int status = api_request_read(&request, kind, (const char *)data + 1, size - 1, &rules, &error);
    require(status == (int)error.status);
    if (status != 0) {
        check_error(&error);
        return 0;
    }
    require(request.n >= 1 && request.n_prompts >= 1);
    require(request.n * request.n_prompts <= API_MAX_CHOICES && request.n_stops <= API_MAX_STOPS);
    for (size_t i = 0; kind == API_COMPLETION && i < request.n_prompts; i++) {
        const json_t *prompt = api_request_prompt(&request, i);
        require(json_is_string(prompt) || json_array_size(prompt) > 0);
    }
    for (size_t i = 0; i < request.n_stops; i++)
        require(request.stops[i][0] != 0);
    api_request_clear(&request);
    return 0;
}

#ifdef CHOIR_FUZZ_MAIN
#define INPUT_BYTES_MAX 4096

static const char *const requests[] = {
    " {\"model\": \"demo\", \"prompt\": [[1, 2], \"b\"], \"max_tokens\": 0, \"temperature\": 0.5, "
    "\"top_p\": 0.9, \"top_k\": -1, \"min_p\": 0.1, \"repetition_penalty\": 1.5, \"seed\": -1, "
    "\"stop\": [\"a\", \"b\"], \"n\": 3, \"logprobs\": 2, \"echo\": true, \"ignore_eos\": true, "
    "\"timeout\": 1.5, \"logits_digest\": true, \"user\": \"me\", \"best_of\": 3, \"suffix\": null}",
    "!{\"messages\": [{\"role\": \"system\", \"content\": \"H\\u00e9\"}, {\"role\": \"user\", "
    "\"content\": [{\"type\": \"text\", \"text\": \"x\"}]}], \"stream\": true, \"stream_options\": "
    "{\"include_usage\": true}, \"logprobs\": true, \"top_logprobs\": 5, \"max_completion_tokens\": "
    "7, \"stop\": \"x\", \"response_format\": {\"type\": \"text\"}, \"tools\": [], \"tool_choice\": "
    "\"none\", \"chat_template_kwargs\": {\"a\": 1}, \"modalities\": [\"text\"]}",
    " {\"prompt\": [5, 6, 7], \"stream\": false, \"temperature\": 0}",
};

static void run_round(void *context, unsigned long i, uint64_t *state)
{
    (void)context;
    static const char *const words[] = {"{", "}", "[", "]", ",", ":", "\"", "null", "true", "false",
        "-1", "0", "1e999", "99999999999999999999", "0.5", "\"stop\"", "\"n\"", "\"prompt\"",
        "\"messages\"", "\"role\"", "\\u0000", "\\ud83d", "\xff", "\n", "[[[[[[[[",
        "{\"a\":", "128", "\"logprobs\"", "\"tools\"", "\"logit_bias\"", "{\"1\": 2}",
        "\"suffix\": \"x\""};
    const fuzz_words_t put = {.words = words, .n_words = sizeof words / sizeof *words};
    uint8_t data[INPUT_BYTES_MAX];
    const char *source = requests[i % (sizeof requests / sizeof *requests)];
    size_t bytes = strlen(source);
    memcpy(data, source, bytes);
    fuzz_input(data, fuzz_mutate(data, 0, bytes, sizeof data, &put, state));
}

int main(int argc, char **argv)
{
    return fuzz_main(argc, argv, 20000, run_round, NULL);
}
#endif
