"""What lm_eval asks, as requests of choir worker; the rules are those of lm_eval's own `hf` model.

Nothing here needs lm_eval: what it would decide comes in as arguments. Whatever cannot be answered as `hf`
would is an error that names the request, before anything is sent.
"""

# Names of lm_eval's generation_kwargs that choir knows under the same name, or under another one.
SAMPLING = ("top_p", "top_k", "min_p", "repetition_penalty", "seed")
# Names that change nothing with these values, which are also the only ones that choir can do.
NEUTRAL = {"num_beams": (1, None), "num_beam_groups": (1, None), "num_return_sequences": (1, None),
           "penalty_alpha": (0, None), "typical_p": (1, None), "epsilon_cutoff": (0, None), "eta_cutoff": (0, None),
           "no_repeat_ngram_size": (0, None), "encoder_no_repeat_ngram_size": (0, None), "length_penalty": (1, None),
           "early_stopping": (False, None), "use_cache": (True, None), "min_length": (0, None),
           "min_new_tokens": (0, None), "diversity_penalty": (0, None), "bad_words_ids": (None,)}
READ_ELSEWHERE = ("until", "max_gen_toks", "do_sample", "temperature", "max_length")
TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class RequestError(ValueError):
    """A request that cannot be answered; its text names it."""


def shown(text, most=80):
    """A text as it stands in a message: its beginning and end, on one line."""
    text = str(text)
    return repr(text if len(text) <= most else text[:most // 2] + " ... " + text[-most // 2:])


def check_text(text, where):
    """hf's tokenizer refuses what is not text: lone surrogates, which no UTF-8 can hold."""
    if not isinstance(text, str):
        raise RequestError(f"{where}: expected a text, found {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{where}: not valid Unicode: a lone surrogate at character {error.start} of {shown(text)}") from None
    return text


def scored(context, continuation, max_length, where, warn):
    """A request for the log-probability of ids after others, cut from the left as hf does."""
    if not context:
        raise RequestError(f"{where}: the context has no tokens of its own before the continuation")
    if not continuation:
        raise RequestError(f"{where}: the continuation has no tokens of its own after the {len(context)} of its context")
    n, total = len(continuation), len(context) + len(continuation)
    if n > max_length:
        raise RequestError(f"{where}: the continuation has {n} tokens, a sequence at most {max_length}")
    if total > max_length + 1:
        warn(f"Combined length of context ({len(context)}) and continuation ({n}) exceeds model's maximum length "
             f"({max_length}). Truncating {total - max_length + 1} tokens from the left.")
    ids = (context + continuation)[-(max_length + 1):]
    return {"op": "loglikelihood", "context_ids": ids[:-n], "continuation_ids": ids[-n:]}


def check_settings(settings, where):
    for key, value in settings.items():
        if key in SAMPLING or key in READ_ELSEWHERE:
            continue
        if key not in NEUTRAL:
            known = ", ".join(sorted((*SAMPLING, *READ_ELSEWHERE, *NEUTRAL)))
            raise RequestError(f"{where}: generation_kwargs: unknown field {shown(key)}; allowed are {known}")
        if value not in NEUTRAL[key]:
            raise RequestError(f"{where}: generation_kwargs: {key}: choir can do {NEUTRAL[key][0]!r} only, found {value!r}")


def sampling(settings, model, where):
    """How tokens are chosen, as transformers' generate() chooses for a model with this generation_config.json: what
    the request does not say comes from there, the repetition penalty also without sampling."""
    temperature = settings.get("temperature")
    temperature = 0.0 if temperature is None else float(temperature)
    fields = {"repetition_penalty": model.get("repetition_penalty", 1)}
    # As lm_eval decides when it is not said.
    sample = settings["do_sample"] if settings.get("do_sample") is not None else temperature > 0
    if sample:
        if not temperature > 0:
            raise RequestError(f"{where}: generation_kwargs: with do_sample, temperature has to be above 0, found {temperature}")
        fields |= {"temperature": temperature, "top_k": model.get("top_k", 50), "top_p": model.get("top_p", 1)}
    fields |= {key: settings[key] for key in SAMPLING if settings.get(key) is not None}
    if not sample:
        fields = {key: value for key, value in fields.items() if key in ("repetition_penalty", "seed")}
    return fields


def generated(prompt, settings, max_length, model, eos_text, where, warn):
    """A request for a continuation of ids. settings: as normalize_gen_kwargs gives them."""
    check_settings(settings, where)
    most = settings["max_gen_toks"]
    room = max_length - most
    if most < 1 or room <= 0:
        raise RequestError(f"{where}: Invalid configuration: requested max tokens to generate ({most}) must be at least 1 and "
                           f"less than model's maximum sequence length ({max_length}).")
    if len(prompt) > room:
        warn(f"Left truncation applied. Original sequence length was {len(prompt)}, truncating to last {room} tokens. "
             "Some content will be lost.")
        prompt = prompt[-room:]
    if not prompt:
        raise RequestError(f"{where}: the context is empty")
    if settings.get("max_length") is not None:
        warn("`max_length` in generation kwargs. Please use `max_gen_toks` instead.")
        most = int(settings["max_length"]) - len(prompt)
        if most < 1:
            raise RequestError(f"{where}: generation_kwargs: max_length {settings['max_length']} leaves no room after the "
                               f"{len(prompt)} tokens of the context")
    until = settings.get("until") or []
    until = [until] if isinstance(until, str) else list(until)
    until += [eos_text] if eos_text and eos_text not in until else []
    stops = [check_text(stop, f"{where}: until") for stop in until if stop]
    return {"op": "generate_until", "prompt_ids": prompt, "max_tokens": most, "until": stops,
            **sampling(settings, model, where)}


def chat_request(messages, add_generation_prompt):
    """A request to render a conversation. Without a generation prompt, the last message is one to be continued."""
    for i, message in enumerate(messages):
        check_text(message.get("content", ""), f"chat template: message {i + 1}")
    if not add_generation_prompt:
        messages = [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + TAG}]
    return {"op": "chat", "messages": messages, "add_generation_prompt": add_generation_prompt}


def chat_text(text, messages, add_generation_prompt):
    """What the answer to it means: a last message that is continued ends where it ends."""
    if add_generation_prompt:
        return text
    at = text.rfind(TAG.strip())
    if at < 0 or messages[-1]["content"].strip() not in text:
        raise RequestError("chat template: the final message, which is to be continued, does not appear in the text")
    return text[:at] if text[at:at + len(TAG)] == TAG else text[:at].rstrip()
