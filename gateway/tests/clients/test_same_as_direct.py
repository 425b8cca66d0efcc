"""The same request to llama.cpp directly and through the gateway: the same bytes, but for ids and times."""

import json
import re

import httpx2
import pytest

FIXED = {"temperature": 0, "seed": 1, "cache_prompt": False}
HI = [{"role": "user", "content": "Grüß Gott, 世界 \\ \" \n"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]

REQUESTS = {
    "chat": ("/v1/chat/completions", {"messages": HI, "max_tokens": 12, **FIXED}),
    "chat stream": ("/v1/chat/completions", {"messages": HI, "max_tokens": 40, "stream": True, **FIXED}),
    "chat stream with usage": (
        "/v1/chat/completions",
        {"messages": HI, "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}, **FIXED},
    ),
    "chat with tools": ("/v1/chat/completions", {"messages": HI, "max_tokens": 60, "tools": TOOLS, **FIXED}),
    "chat with logprobs": ("/v1/chat/completions", {"messages": HI, "max_tokens": 3, "logprobs": True, **FIXED}),
    "completion": ("/v1/completions", {"prompt": "once upon", "max_tokens": 9, **FIXED}),
    "completion stream": ("/v1/completions", {"prompt": "once upon", "max_tokens": 9, "stream": True, **FIXED}),
    "responses": ("/v1/responses", {"input": "hi", "max_output_tokens": 7, **FIXED}),
    "responses stream": ("/v1/responses", {"input": "hi", "max_output_tokens": 7, "stream": True, **FIXED}),
    "messages": ("/v1/messages", {"messages": HI, "max_tokens": 6, **FIXED}),
    "messages stream": ("/v1/messages", {"messages": HI, "max_tokens": 6, "stream": True, **FIXED}),
    "count tokens": ("/v1/messages/count_tokens", {"messages": HI}),
    "tokenize": ("/tokenize", {"content": "to be or not to be"}),
    "embeddings": ("/v1/embeddings", {"model": "tiny-embed", "input": ["one", "two words"]}),
    "embeddings in base64": ("/v1/embeddings", {"model": "tiny-embed", "input": "x", "encoding_format": "base64"}),
    "a mistake": ("/v1/chat/completions", {"messages": "not a list"}),
    "another mistake": ("/v1/completions", {"prompt": "x", "max_tokens": "many"}),
}

# What differs from one run to the next on the same server.
CHANGING = [
    (re.compile(rb'"(id|item_id|system_fingerprint)":"[^"]*"'), rb'"\1":"*"'),
    (re.compile(rb'"(created|created_at|completed_at)":\d+'), rb'"\1":0'),
    (re.compile(rb'"timings":\{[^}]*\}'), rb'"timings":{}'),
]


def masked(body):
    for pattern, replacement in CHANGING:
        body = pattern.sub(replacement, body)
    return body


def post(base, path, body, headers=None):
    content = json.dumps({"model": "tiny-random", **body}, ensure_ascii=False, indent=1).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    return httpx2.post(base + path, content=content, headers=headers, timeout=60)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_is_the_same_byte_for_byte(name, direct, direct_embed, through, authorized):
    path, body = REQUESTS[name]
    server = direct_embed if body.get("model") == "tiny-embed" else direct
    expected, answer = post(server, path, body), post(through, path, body, authorized)
    assert masked(answer.content) == masked(expected.content)
    assert answer.status_code == expected.status_code
    assert answer.headers["content-type"] == expected.headers["content-type"]
    assert "x-request-id" in answer.headers


def test_the_alias_changes_the_name_and_nothing_else(direct, through, authorized):
    for stream in (False, True):
        body = {"messages": HI, "max_tokens": 8, "stream": stream, **FIXED}
        expected = post(direct, "/v1/chat/completions", body)
        answer = post(through, "/v1/chat/completions", {**body, "model": "gpt-4o-mini"}, authorized)
        assert masked(answer.content) == masked(expected.content).replace(b'"tiny-random"', b'"gpt-4o-mini"')


def test_a_large_prompt_passes(direct, through, authorized):
    body = {"messages": [{"role": "user", "content": "word " * 300}], "max_tokens": 2, "x_pad": "y" * 5_000_000, **FIXED}
    expected, answer = (post(base, "/v1/chat/completions", body, authorized) for base in (direct, through))
    assert answer.status_code == expected.status_code == 200
    assert masked(answer.content) == masked(expected.content)


def test_the_model_list_names_what_can_be_asked_for(through, authorized):
    models = httpx2.get(through + "/v1/models", headers=authorized).json()["data"]
    assert {"tiny-random", "tiny-embed", "gpt-4o-mini"} <= {model["id"] for model in models}
