"""A llama.cpp server that is killed in the middle of a stream: the SDK reads on, from the other one."""

import contextlib
import signal
import sys

import openai
import pytest
from conftest import BINARY, HERE, free_port, process, wait_for

# Long enough for the server to be killed before it is done.
LENGTH = 3000
# Printable characters only: what else the model has for tokens is not read again as it was written.
ONLY_LETTERS = {str(token): -100 for token in [*range(259), *range(354, 400)]}
ASK = {"model": "tiny-random", "stream": True, "temperature": 0, "seed": 1, "max_tokens": LENGTH, "logit_bias": ONLY_LETTERS}
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
def two(model_file, folder):
    """A gateway before two servers, either of which may be killed; gives it and them."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for _ in range(2):
            port = free_port()
            log = folder / f"resume-{port}.log"
            command = [sys.executable, HERE / "serve.py", model_file, str(port), "--slots", "1", "--context", "4096"]
            servers[f"127.0.0.1:{port}"] = child = stack.enter_context(process(command, log))
            wait_for(f"http://127.0.0.1:{port}/health", child, log)
        port, admin = free_port(), free_port()
        config, log = folder / f"resume-{port}.yaml", folder / f"resume-{port}.log"
        config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin} }}
log: {{ format: json }}
pools:
  chat:
    resume: {{}}
    backends: [{", ".join("http://" + address for address in servers)}]
""")
        child = stack.enter_context(process([BINARY, "run", "--config", str(config)], log))
        wait_for(f"http://127.0.0.1:{admin}/readyz", child, log)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        yield client, servers, log


def read(raw, servers, kill_after):
    """The chunks of a stream whose server is killed once so many of them are there; `None`: never."""
    chunks = []
    for chunk in raw.parse():
        chunks.append(chunk)
        if len(chunks) == kill_after:
            servers[raw.headers["x-tidegate-backend"]].send_signal(signal.SIGKILL)
    return chunks


def judged(chunks, text):
    """What all chunks say, of a stream that has to be one and whole."""
    # Not `created`: llama.cpp tells the time of each chunk.
    for name in ("id", "model", "system_fingerprint"):
        assert len({getattr(chunk, name) for chunk in chunks}) == 1, name
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["length"]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert len(usages) == 1 and usages[0].total_tokens == usages[0].prompt_tokens + usages[0].completion_tokens
    return "".join(text(choice) or "" for choice in choices), usages[0]


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_a_killed_server_is_not_noticed(two, kind):
    client, servers, log = two
    if kind == "chat":
        create = client.chat.completions.with_raw_response.create
        ask = {**ASK, **USAGE, "messages": [{"role": "user", "content": "Tell me a story"}]}
        text = lambda choice: choice.delta.content
    else:
        create = client.completions.with_raw_response.create
        ask = {**ASK, **USAGE, "prompt": "Once upon a time"}
        text = lambda choice: choice.text
    unbroken, told = judged(read(create(**ask), servers, None), text)
    chunks = read(create(**ask), servers, 10)
    if kind == "chat":
        assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices].count("assistant") == 1
    broken, counted = judged(chunks, text)
    assert '"resume":"won"' in log.read_text(), "it was over before it was killed"
    assert len(broken) == len(unbroken)
    assert (counted.prompt_tokens, counted.completion_tokens) == (told.prompt_tokens, told.completion_tokens)
    same = next((at for at, pair in enumerate(zip(broken, unbroken)) if pair[0] != pair[1]), len(unbroken))
    print(f"{kind}: {same} of {len(unbroken)} characters as in the unbroken stream")
    assert broken == unbroken
