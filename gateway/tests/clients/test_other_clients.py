"""anthropic-python, langchain-openai, curl -N and openai-node."""

import json
import os
import pathlib
import subprocess
import time

import anthropic
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

HERE = pathlib.Path(__file__).parent
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def claude(through, key):
    return anthropic.Anthropic(base_url=through, api_key=key, max_retries=0)


def test_messages_say_what_the_server_says(claude, direct):
    bare = anthropic.Anthropic(base_url=direct, api_key="none", max_retries=0)
    answers = [
        each.messages.create(model="tiny-random", messages=HI, max_tokens=9, extra_body={"temperature": 0})
        for each in (claude, bare)
    ]
    assert answers[0].content == answers[1].content
    assert answers[0].stop_reason == "max_tokens"


def test_messages_stream(claude):
    # Without temperature the random weights now and then begin with half a character, and llama.cpp then leaves out its
    # message_start: directly too.
    greedy = {"temperature": 0}
    with claude.messages.stream(model="gpt-4o-mini", messages=HI, max_tokens=9, extra_body=greedy) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert (final.model, final.usage.output_tokens) == ("gpt-4o-mini", 9)


def test_tokens_are_counted(claude):
    assert claude.messages.count_tokens(model="tiny-random", messages=HI).input_tokens > 3


def test_anthropic_errors_are_the_classes_the_sdk_has(claude, through):
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="nothing-like-it", messages=HI, max_tokens=1)
    assert caught.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.AuthenticationError) as caught:
        anthropic.Anthropic(base_url=through, api_key="wrong").messages.create(model="tiny-random", messages=HI, max_tokens=1)
    assert caught.value.body["error"]["type"] == "authentication_error"
    assert caught.value.request_id


def test_langchain(through, key):
    chat = ChatOpenAI(base_url=f"{through}/v1", api_key=key, model="gpt-4o-mini", max_completion_tokens=12, temperature=0, seed=1)
    whole = chat.invoke("hi").content
    assert whole and whole == "".join(piece.content for piece in chat.stream("hi"))
    embedder = OpenAIEmbeddings(
        base_url=f"{through}/v1", api_key=key, model="tiny-embed", check_embedding_ctx_length=False
    )
    assert [len(vector) for vector in embedder.embed_documents(["a", "b"])] == [64, 64]


def test_curl_sees_the_words_as_they_come(through, key):
    body = {"model": "tiny-random", "messages": HI, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    command = ["curl", "-sN", f"{through}/v1/chat/completions", "-H", f"Authorization: Bearer {key}"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    start, times, last = time.monotonic(), [], b""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        for line in curl.stdout:
            if line.strip():
                times.append(time.monotonic() - start)
                last = line
    assert last == b"data: [DONE]\n"
    assert len(times) > 1000
    assert times[0] < times[-1] / 2, f"the first event came after {times[0]:.3f} of {times[-1]:.3f} s"


def test_openai_node(through, key, direct):
    environment = {**os.environ, "BASE_URL": f"{through}/v1", "DIRECT_URL": f"{direct}/v1", "API_KEY": key}
    made = subprocess.run(
        ["node", "--test", HERE / "openai.test.mjs"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stdout + made.stderr
