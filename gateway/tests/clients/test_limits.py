"""SDKs run into a limit, wait as long as they are told, and finish without an error."""

import concurrent.futures
import contextlib
import os
import subprocess
import time

import anthropic
import httpx2
import openai
import pytest
from conftest import HERE, behind_a_key

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def limited(direct, key_and_hash, folder):
    """Starts a gateway with these limits; gives its address and its admin's."""
    with contextlib.ExitStack() as stack:

        def start(limits):
            return stack.enter_context(behind_a_key(direct, key_and_hash, folder, "user: ann", f"limits: [{limits}]"))

        yield start


def refusals(admin, limit):
    text = httpx2.get(f"{admin}/metrics").text
    lines = [line for line in text.splitlines() if f'limit="{limit}",outcome="refused"' in line]
    return sum(float(line.split()[-1]) for line in lines)


def test_openai_python_waits_for_its_turn(limited, key):
    url, admin = limited("{ per: user, requests: 4/s, burst: 1 }")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key)
    start = time.monotonic()
    for _ in range(6):
        answer = client.chat.completions.create(model="tiny-random", messages=HI, max_tokens=2)
        assert answer.usage.completion_tokens == 2
    assert time.monotonic() - start > 1.0
    assert refusals(admin, "user/requests") >= 3


def test_openai_python_streams_under_a_token_limit(limited, key):
    url, admin = limited("{ per: user, tokens: 200/s, burst: 200 }")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=5)

    def stream(_):
        pieces = client.chat.completions.create(model="tiny-random", messages=HI, max_tokens=60, stream=True)
        return sum(1 for piece in pieces if piece.choices)

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert all(count > 1 for count in threads.map(stream, range(6)))
    assert refusals(admin, "user/tokens") >= 1


def test_anthropic_python_waits_for_its_turn(limited, key):
    url, admin = limited("{ per: user, requests: 4/s, burst: 1 }")
    client = anthropic.Anthropic(base_url=url, api_key=key)
    for _ in range(4):
        assert client.messages.create(model="tiny-random", messages=HI, max_tokens=2).content
    assert refusals(admin, "user/requests") >= 2


def test_a_refusal_is_the_sdks_own_exception(limited, key):
    url, _ = limited("{ per: user, requests: 1/h }")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    client.chat.completions.create(model="tiny-random", messages=HI, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="tiny-random", messages=HI, max_tokens=1)
    assert caught.value.code == "rate_limit_exceeded"
    assert "user 'ann'" in str(caught.value)
    assert int(caught.value.response.headers["retry-after"]) > 3000


def test_openai_node_waits_for_its_turn(limited, key):
    url, admin = limited("{ per: user, requests: 4/s, burst: 1 }")
    tokens, tokens_admin = limited("{ per: user, tokens: 200/s, burst: 200 }")
    environment = {**os.environ, "BASE_URL": f"{url}/v1", "TOKENS_URL": f"{tokens}/v1", "API_KEY": key}
    command = ["node", "--test", HERE / "limits.test.mjs"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stdout + made.stderr
    assert refusals(admin, "user/requests") >= 3
    assert refusals(tokens_admin, "user/tokens") >= 1
