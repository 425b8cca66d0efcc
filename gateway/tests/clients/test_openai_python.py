"""openai-python as people use it."""

import asyncio
import json
import time

import openai
import pytest

HI = [{"role": "user", "content": "hi"}]
FIXED = {"temperature": 0, "seed": 1}


@pytest.fixture
def client(through, key):
    return openai.OpenAI(base_url=f"{through}/v1", api_key=key, max_retries=0)


@pytest.fixture
def bare(direct):
    return openai.OpenAI(base_url=f"{direct}/v1", api_key="none", max_retries=0)


def test_chat_says_what_the_server_says(client, bare):
    answers = [
        each.chat.completions.create(model="tiny-random", messages=HI, max_tokens=16, **FIXED) for each in (client, bare)
    ]
    assert answers[0].choices == answers[1].choices
    assert answers[0].usage.completion_tokens == 16


def test_a_stream_brings_every_piece(client, bare):
    def pieces(each):
        stream = each.chat.completions.create(model="tiny-random", messages=HI, max_tokens=30, stream=True, **FIXED)
        return [(chunk.choices[0].delta.content, chunk.choices[0].finish_reason) for chunk in stream]

    assert pieces(client) == pieces(bare)


def test_usage_comes_with_a_stream_that_asks_for_it(client):
    stream = client.chat.completions.create(
        model="gpt-4o-mini", messages=HI, max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens == 4
    assert {chunk.model for chunk in chunks} == {"gpt-4o-mini"}


def test_embeddings_are_the_same_numbers(client, direct_embed):
    bare = openai.OpenAI(base_url=f"{direct_embed}/v1", api_key="none")
    answers = [each.embeddings.create(model="tiny-embed", input=["a b", "c"]) for each in (client, bare)]
    assert [item.embedding for item in answers[0].data] == [item.embedding for item in answers[1].data]
    assert len(answers[0].data[0].embedding) == 64


def test_tools_pass(client, bare):
    tool = {
        "type": "function",
        "function": {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}},
    }

    def answer(each):
        made = each.chat.completions.create(
            model="tiny-random", messages=HI, max_tokens=200, tools=[tool], tool_choice="required", **FIXED
        )
        call = made.choices[0].message.tool_calls
        return call and [(one.function.name, one.function.arguments) for one in call], made.choices[0].finish_reason

    try:
        expected = answer(bare)
    except openai.APIStatusError as error:
        with pytest.raises(type(error)):
            answer(client)
    else:
        assert answer(client) == expected


def test_responses(client, bare):
    answers = [each.responses.create(model="tiny-random", input="hi", max_output_tokens=8, temperature=0) for each in (client, bare)]
    assert answers[0].output_text == answers[1].output_text
    events = [event.type for event in client.responses.create(model="tiny-random", input="hi", max_output_tokens=8, stream=True)]
    assert events[0] == "response.created" and events[-1] == "response.completed"


def test_errors_are_the_classes_the_sdk_has(client, through, key):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="tiny-randon", messages=HI)
    assert caught.value.code == "model_not_found" and "tiny-random" in str(caught.value)
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"{through}/v1", api_key="sk-wrong", max_retries=0).models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny-random", messages="no list")
    assert "messages" in str(caught.value)
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=object)


def test_models(client):
    assert {"tiny-random", "gpt-4o-mini"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


def test_a_cancelled_stream_is_logged_as_such(client, gateway_log):
    stream = client.chat.completions.create(
        model="tiny-random", messages=HI, max_tokens=1900, stream=True, extra_body={"ignore_eos": True},
        extra_headers={"x-request-id": "cancelled-by-python"},
    )
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        lines = [json.loads(line) for line in gateway_log.read_text().splitlines() if "cancelled-by-python" in line]
        if lines:
            break
        time.sleep(0.02)
    assert lines and lines[0]["status"] == 499


def test_200_calls_at_once(through, key):
    async def main():
        async with openai.AsyncOpenAI(base_url=f"{through}/v1", api_key=key, max_retries=0, timeout=120) as client:
            async def whole(n):
                made = await client.chat.completions.create(
                    model="tiny-random", messages=HI, max_tokens=4, extra_body={"ignore_eos": True}
                )
                return made.usage.completion_tokens

            async def streamed(n):
                stream = await client.chat.completions.create(
                    model="tiny-random", messages=HI, max_tokens=4, stream=True, extra_body={"ignore_eos": True}
                )
                return [chunk.choices[0].finish_reason async for chunk in stream][-1]

            return await asyncio.gather(*(whole(n) if n % 2 else streamed(n) for n in range(200)))

    answers = asyncio.run(main())
    assert sorted(map(str, answers)) == ["4"] * 100 + ["length"] * 100
