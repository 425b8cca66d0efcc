"""What SDKs make of a kept answer is what they made of the first one, whichever way either came: real llama.cpp answers."""

import anthropic
import httpx2
import openai
import pytest
from conftest import behind_a_key

HI = [{"role": "user", "content": "hi there"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def cached(direct, key_and_hash, folder):
    """A gateway with a cache; gives its address and its admin's."""
    with behind_a_key(direct, key_and_hash, folder, "org: tests", "prompt_cache: { for: 1h }") as addresses:
        yield addresses


def hits(admin):
    lines = httpx2.get(f"{admin}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if "tidegate_cache_requests_total" in line and 'outcome="hit"' in line)


def plain(answer):
    told = answer.model_dump()
    for name in ("id", "created", "timings"):
        told.pop(name, None)
    return told


def accumulated(client, **ask):
    """A chat stream, added up as the SDK does it."""
    with client.chat.completions.stream(**ask) as stream:
        for _ in stream:
            pass
        try:
            return stream.get_final_completion()
        except openai.LengthFinishReasonError as cut:
            # All of it, as far as `max_tokens` went.
            return cut.completion


def said(answer):
    """What counts of an answer: streams and whole answers differ in what is null and what is absent.

    With random weights a first token may be half a character, and llama.cpp then streams no event with the role.
    """
    choices = [
        (choice.index, choice.message.role or "assistant", choice.message.content, choice.finish_reason,
         [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []],
         [token.token for token in (choice.logprobs.content if choice.logprobs else None) or []])
        for choice in answer.choices
    ]
    return sorted(choices), (answer.usage.prompt_tokens, answer.usage.completion_tokens) if answer.usage else None


LOGPROBS = {"logprobs": True, "top_logprobs": 2}
FIRST = [("whole", {}), ("whole", {"n": 2}), ("whole", LOGPROBS), ("whole", {"tools": [TOOL]}),
         ("stream", {}), ("stream", LOGPROBS), ("stream", {"tools": [TOOL]})]


@pytest.mark.parametrize("first, more", FIRST, ids=str)
def test_openai_python_cannot_tell_a_kept_answer_from_the_first(cached, key, first, more):
    url, admin = cached
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    ask = {"model": "tiny-random", "messages": HI, "max_tokens": 8, "temperature": 1.0} | more
    usage = {"stream_options": {"include_usage": True}}
    whole = lambda: client.chat.completions.create(**ask)  # noqa: E731
    stream = lambda: accumulated(client, **ask, **usage)  # noqa: E731
    live = whole() if first == "whole" else stream()
    again = [whole(), stream(), whole(), stream()]
    assert hits(admin) == 4
    assert [said(answer) for answer in again] == [said(live)] * 4
    assert plain(again[0]) == plain(again[2]) and again[0].id != again[2].id


def added(chunks):
    """What the chunks of each choice say, whichever begins first: the SDK's own helper cannot add up such a stream."""
    text, reasons = {}, {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        text[choice.index] = text.get(choice.index, "") + (choice.delta.content or "")
        reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    usage = chunks[-1].usage
    return sorted(text.items()), sorted(reasons.items()), (usage.prompt_tokens, usage.completion_tokens)


def test_openai_python_reads_a_kept_stream_of_two_choices(cached, key):
    url, admin = cached
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    ask = {"model": "tiny-random", "messages": HI, "max_tokens": 8, "temperature": 1.0, "n": 2}
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    live, again = [added(list(client.chat.completions.create(**ask, **stream))) for _ in range(2)]
    assert live == again and len(live[0]) == 2
    whole = client.chat.completions.create(**ask)
    assert sorted((choice.index, choice.message.content) for choice in whole.choices) == live[0]
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == live[2]
    assert hits(admin) == 2


def test_openai_python_gets_no_usage_it_did_not_ask_for(cached, key):
    url, admin = cached
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    ask = {"model": "tiny-random", "messages": HI, "max_tokens": 4, "stream": True}
    for _ in range(2):
        chunks = list(client.chat.completions.create(**ask))
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    asked = list(client.chat.completions.create(**ask, stream_options={"include_usage": True}))
    assert asked[-1].usage.completion_tokens == 4 and not asked[-1].choices
    assert hits(admin) == 2


def test_openai_python_completions(cached, key):
    url, admin = cached
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    ask = {"model": "tiny-random", "prompt": "the tide", "max_tokens": 6}
    live = client.completions.create(**ask)
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True) if chunk.choices)
    assert streamed == live.choices[0].text and hits(admin) == 1


@pytest.mark.parametrize("first", ["whole", "stream"])
def test_anthropic_cannot_tell_a_kept_message_from_the_first(cached, key, first):
    url, admin = cached
    client = anthropic.Anthropic(base_url=url, api_key=key)
    # With random weights a sampled first token may be half a character, and llama.cpp then sends no `message_start`.
    ask = {"model": "tiny-random", "messages": HI, "max_tokens": 8, "extra_body": {"temperature": 0}}

    def stream():
        with client.messages.stream(**ask) as events:
            return events.get_final_message()

    told = lambda m: ([block.text for block in m.content], m.stop_reason, m.usage.output_tokens, m.usage.input_tokens)  # noqa: E731
    live = client.messages.create(**ask) if first == "whole" else stream()
    again = [client.messages.create(**ask), stream()]
    assert hits(admin) == 2
    assert [told(message) for message in again] == [told(live)] * 2
