"""What grows, and what is counted while it does.

Each line has a name, what there is more and more of, the sizes, what is counted with what it may do, and a function that
counts at one size.
"""

import contextlib
import dataclasses
import http.client
import itertools
import json
import socket
import time
import typing

from counted import Gateway

WHOLE = ["--distinct", "--body-size", "1024"]
# Nothing that was warmed up with is asked again: it would be in the cache.
OTHER = ["--distinct", "--body-size", "1040"]
WARM, ASKED = 60, 200
RELOADS = 7
LOOK = 5.0


@dataclasses.dataclass(frozen=True)
class Line:
    """One thing that grows."""

    name: str
    unit: str
    sizes: tuple
    may: dict
    """What is counted: instructions of a `request`, of a second of `rest`, of the `start`; `memory` in KiB, a `reload` in us. And how it may grow."""
    count: typing.Callable


def plain(**more):
    """The file of benches/compare with nothing on, without what goes on by itself."""
    pool = {"health": "off", "idle_connections": "1h", "backends": ["http://@MOCK@"]}
    return {"listen": "127.0.0.1:@PORT@", "admin": {"listen": "127.0.0.1:@ADMIN@"}, "pools": {"main": pool}, **more}


def governed(**more):
    """A key, three limits, routing, a look into the cache, as in benches/compare."""
    keys = [{"id": "bench", "hash": "@HASH@", "user": "bench", "org": "bench"}]
    limits = [
        {"per": "key", "requests": "1M/s"},
        {"per": "org", "tokens": "1000M/min"},
        {"per": ["user", "model"], "in_flight": 100000},
    ]
    rules = [{"name": "heavy", "when": "prompt_tokens > 900k or has_images", "model": "large"}]
    filters = [
        {"api_key": {"keys": keys}},
        {"limits": limits},
        {"model_route": {"rules": rules}},
        {"prompt_cache": {"for": "1h", "size": "1GiB"}},
    ]
    file = plain(filters=filters, models={"large": {"pool": "main"}, "*": {"pool": "main"}})
    file["pools"]["main"]["balance"] = "least_busy"
    return {**file, **more}


def text_of(file):
    """As people write it: a line for each thing."""
    return json.dumps(file, indent=1)


def total(counts):
    return sum(counts[0].values())


def request(gateway, asked=OTHER, warm=WHOLE, number=ASKED, first=WARM):
    """Instructions of one request, once the gateway is used to such."""
    gateway.load(warm, first)
    return (total(counted_from_here(gateway, lambda: gateway.load(asked, number))) - at_rest(gateway)) / number


def counted_from_here(gateway, what):
    """What it takes while `what` is done, and how long that was; the profile of it is the one that is kept."""
    gateway.zero()
    began = time.monotonic()
    what()
    gateway.took = time.monotonic() - began
    found = gateway.spent()
    gateway.profile = gateway.folder / f"out.{gateway.parts}"
    return found


def at_rest(gateway):
    """What goes on by itself, in as long a time: that is not what a request costs."""
    looked = min(gateway.took, LOOK)
    gateway.zero()
    time.sleep(looked)
    return total(gateway.spent()) * gateway.took / looked


def whole(file, number=ASKED, first=WARM, asked=OTHER, warm=WHOLE):
    """A line whose size is in the file: what a request costs."""

    def count(tools, size):
        with Gateway(tools, text_of(file(size))) as gateway:
            return {"request": request(gateway, asked, warm, number, first), "profile": gateway.profile}

    return count


def life(file):
    """What a file costs that is large: its start, a request, reading it again, and memory."""

    def count(tools, size):
        text = text_of(file(size))
        with Gateway(tools, text) as gateway:
            start = total(gateway.spent())
            asked = request(gateway)
            profile, rest = gateway.profile, at_rest(gateway) / gateway.took
        with Gateway(tools, text, counted=False) as gateway:
            gateway.load(WHOLE, 20)
            memory = gateway.resident()
            again = min(reload(gateway, file(size), number) for number in range(RELOADS))
        return {"start": start, "request": asked, "rest": rest, "reload": again, "memory": memory, "profile": profile}

    return count


def reload(gateway, file, number):
    """Microseconds of processor time. Valgrind 3.19 does not survive how rustix looks for the clock there."""
    # Another file each time, or nothing would be done.
    gateway.write(text_of({**file, "recent": {"requests": 900 + number}}))
    before = gateway.busy()
    assert json.load(gateway.ask("/admin/reload", "POST"))["outcome"] == "applied"
    return (gateway.busy() - before) / 1000


# -- backends, models

# All of 127.0.0.0/8 is this machine: one mock is as many backends.
def backends(balance):
    def file(size):
        found = plain()
        urls = [f"http://127.0.{at // 250}.{at % 250 + 1}:@MOCK_PORT@" for at in range(size)]
        found["pools"]["main"] |= {"balance": balance, "backends": urls}
        return found

    return file


def reached(balance):
    """Requests enough before it that hardly a backend is left to which there is no connection."""
    session = ["--header", "x-session-id: mine"] if balance == "session" else []

    def count(tools, size):
        with Gateway(tools, text_of(backends(balance)(size))) as gateway:
            counted = request(gateway, [*OTHER, *session], [*WHOLE, *session], first=20 + 5 * size)
            return {"request": counted, "profile": gateway.profile}

    return count


def models(size):
    """So many pools, and a model for each; the one that is asked for stands last."""
    file = plain(models={})
    pool = file["pools"].pop("main")
    for at in range(size):
        name = "mock-whole-504" if at == size - 1 else f"model-{at}"
        file["pools"][f"pool-{at}"] = {**pool, "backends": [{"url": "http://@MOCK@", "name": f"backend-{at}"}]}
        file["models"][name] = {"pool": f"pool-{at}"}
    return file


def wildcards(size):
    names = [f"mock-whole-5{at}*" for at in range(1, size)] + ["mock-*"]
    return plain(models={name: {"pool": "main"} for name in names})


# -- who asks

def a_key(at):
    return {"id": f"key-{at}", "hash": f"{at:064x}", "user": f"user-{at}", "org": f"org-{at % 100}"}


def keys(size):
    file = governed()
    file["filters"][0]["api_key"]["keys"] = [a_key(at) for at in range(size - 1)] + file["filters"][0]["api_key"]["keys"]
    return file


def tenants(size):
    file = governed()
    file["tenants"] = {f"org-{at}": {"limits": [{"requests": "1M/s"}], "users": [f"user-{at}"]} for at in range(size - 1)}
    file["tenants"]["bench"] = {"limits": [{"requests": "1M/s"}], "users": ["bench"]}
    return file


def limits(size):
    file = governed()
    file["filters"][1]["limits"] = [{"name": f"limit-{at}", "per": "key", "requests": "1M/s"} for at in range(size)]
    return file


def subjects(tools, size):
    """So many addresses that have a bucket each; what one more request of theirs costs."""
    limit = {"per": "ip", "requests": "200/h", "burst": 200}
    file = plain(filters=[{"limits": [limit]}], trusted_proxies=["127.0.0.0/8"])
    with Gateway(tools, text_of(file)) as gateway:
        addresses = [f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}" for at in range(size)]
        wanted = list(itertools.islice(itertools.cycle(addresses), ASKED))
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        for address in [*addresses, *wanted]:
            of_it(connection, address)
        spent = counted_from_here(gateway, lambda: [of_it(connection, address) for address in wanted])
        connection.close()
        return {"request": total(spent) / len(wanted), "profile": gateway.profile}


def of_it(connection, address):
    connection.request("GET", "/v1/models", headers={"x-forwarded-for": address})
    answer = connection.getresponse()
    answer.read()
    # The path is refused or answered, as the file has it: by the limit it is not refused.
    if answer.status == 429:
        raise SystemExit("refused")


# -- what it runs through

def rules(size):
    """The last one decides."""
    file = governed()
    conditions = [f'prompt_tokens > 900k and model == "model-{at}"' for at in range(size - 1)] + ['model == "mock-whole-504"']
    file["filters"][2]["model_route"]["rules"] = [{"when": condition, "model": "large"} for condition in conditions]
    return file


def filters(size):
    file = plain(models={"large": {"pool": "main"}, "*": {"pool": "main"}})
    one = {"model_route": {"rules": [{"when": "has_images", "model": "large"}]}}
    return {**file, "filters": [one] * size}


def headers(tools, size):
    asked = [part for at in range(size) for part in ("--header", f"x-header-{at}: value-{at}")]
    with Gateway(tools, text_of(plain())) as gateway:
        return {"request": request(gateway, [*OTHER, *asked], [*WHOLE, *asked]), "profile": gateway.profile}


# -- how large it is

def body(file):
    def count(tools, size):
        number = 100 if size < 100_000 else 20
        with Gateway(tools, text_of(file())) as gateway:
            one, other = (["--distinct", "--body-size", str(size + more)] for more in (0, 16))
            return {"request": request(gateway, other, one, number, number // 4), "profile": gateway.profile}

    return count


def made(make):
    """A body that is made; it is the same each time, so it is not asked of the cache."""

    def count(tools, size):
        file = governed()
        with Gateway(tools, text_of(file)) as gateway:
            text = gateway.folder / "body.json"
            text.write_text(json.dumps({"model": "mock-whole-504", **make(size)}, separators=(",", ":")))
            asked = ["--body", str(text), "--header", "cache-control: no-cache"]
            return {"request": request(gateway, asked, asked, 40, 10), "profile": gateway.profile}

    return count


def messages(size):
    roles = itertools.cycle(("user", "assistant"))
    return {"messages": [{"role": next(roles), "content": f"This is what was said as number {at}."} for at in range(size)]}


def members(size):
    """One object with so many members, as a tool's parameters are."""
    properties = {f"member-{at}": {"type": "string"} for at in range(size)}
    tool = {"type": "function", "function": {"name": "tool", "parameters": {"type": "object", "properties": properties}}}
    return {"messages": [{"role": "user", "content": "Use it."}], "tools": [tool]}


def unknown_members(size):
    """The outermost object with so many members that nobody knows."""
    return {"messages": [{"role": "user", "content": "Hello."}], **{f"member-{at}": at for at in range(size)}}


def answer(tools, size):
    model = ["--model", f"mock-whole-{size}"]
    number = 100 if size < 100_000 else 20
    with Gateway(tools, text_of(governed())) as gateway:
        return {"request": request(gateway, [*OTHER, *model], [*WHOLE, *model], number, number // 4), "profile": gateway.profile}


def tokens(tools, size):
    model = ["--model", f"mock-stream-{size}-0", "--streams", "1"]
    number = 40 if size < 1000 else 8
    with Gateway(tools, text_of(governed())) as gateway:
        return {"request": request(gateway, [*OTHER, *model], [*WHOLE, *model], number, number // 4), "profile": gateway.profile}


# -- how many there are

def idle(tools, size):
    """So many clients that have asked once, and keep their connections."""
    file = governed(limits={"keep_alive": "1h"})
    with Gateway(tools, text_of(file)) as gateway, contextlib.ExitStack() as held:
        for _ in range(size):
            one = held.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            one.sendall(b"OPTIONS /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
            assert one.recv(4096).startswith(b"HTTP/1.1 ")
        return {"request": request(gateway), "profile": gateway.profile}


def streams(tools, size):
    """What one of so many streams costs that are open at a time, each of 20 tokens, a second and a half apart."""
    asked = ["--model", "mock-stream-20-1500", "--streams", str(size), "--ramp", "15", "--distinct"]
    with Gateway(tools, text_of(governed())) as gateway:
        gateway.load([*WHOLE, "--model", "mock-stream-20-0", "--streams", "1"], 20)
        spent = counted_from_here(gateway, lambda: gateway.load(asked, size))
        return {"request": (total(spent) - at_rest(gateway)) / size, "profile": gateway.profile}


def kept(tools, size):
    """So many answers in the cache: one of them, and one that is not there."""
    with Gateway(tools, text_of(governed())) as gateway:
        gateway.load(WHOLE, size)
        hit = request(gateway, *[["--model", "mock-whole-504"]] * 2)
        return {"hit": hit, "miss": request(gateway), "profile": gateway.profile}


def waiting(tools, size):
    """So many wait for the one place there is; what it costs that another comes."""
    file = plain()
    file["pools"]["main"] |= {"queue": {"most": size + ASKED, "max_wait": "10m"}}
    file["pools"]["main"]["backends"] = [{"url": "http://@MOCK@", "max_in_flight": 1}]
    with Gateway(tools, text_of(file)) as gateway, contextlib.ExitStack() as held:
        held.enter_context(asking(gateway, "mock-whole-504-3600000"))
        until(gateway, "tidegate_backend_in_flight", 1)
        for _ in range(size):
            held.enter_context(asking(gateway, "mock-whole-504"))
        until(gateway, WAITING, size)

        def come():
            for _ in range(ASKED):
                held.enter_context(asking(gateway, "mock-whole-504"))
            until(gateway, WAITING, size + ASKED)

        # Nothing but joining: those who wait look for themselves now and then.
        _, within = counted_from_here(gateway, come)
        return {"join": within["tidegate::upstream::queue::Queue::join"] / ASKED, "profile": gateway.profile}


def asking(gateway, model):
    """A connection on which an answer is waited for."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello."}]}).encode()
    one = socket.create_connection(("127.0.0.1", gateway.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    one.sendall(head.encode() + body)
    return one


WAITING = "tidegate_queue_waiting"


def until(gateway, name, number):
    """The sum of what is told by this name is so much."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        page = gateway.ask("/metrics").read().decode()
        series = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
        if sum(float(line.rsplit(" ", 1)[1]) for line in series) == number:
            return
        time.sleep(0.1)
    raise SystemExit(f"{name} does not come to {number}")


BY_TEN = (10, 100, 1000)
REQUEST = {"request": "flat"}
LINEAR = {"request": "linear"}
OTHERS = {"rest": "linear", "start": "linear", "reload": "linear", "memory": "linear"}
LIFE = {**REQUEST, **OTHERS}

# `prefix_affinity` finds a prompt in a tree of those it remembers, more of them here. Of `session` each backend is hashed.
BALANCERS = {"round_robin": "flat", "least_busy": "flat", "peak_ewma": "flat", "prefix_affinity": 0.1, "session": "linear"}

LINES = [
    *(
        Line(f"backends/{name}", "backends", (2, 20, 200), {"request": may}, reached(name))
        for name, may in BALANCERS.items()
    ),
    Line("backends", "backends", (20, 200, 2000), OTHERS, life(backends("least_busy"))),
    # A thousand pools do as much by themselves while a request is under way as a third of it: what is taken off varies.
    Line("models", "models, each with a pool", BY_TEN, {**LIFE, "request": 0.1}, life(models)),
    Line("wildcards", "models with `*`", BY_TEN, REQUEST, whole(wildcards)),
    Line("keys", "keys", (10, 100, 1000, 10_000), LIFE, life(keys)),
    Line("tenants", "organisations with limits", BY_TEN, LIFE, life(tenants)),
    Line("subjects", "addresses with a bucket", (100, 1000, 10_000), REQUEST, subjects),
    Line("limits", "limits of a request", (1, 10, 100), LINEAR, whole(limits)),
    Line("rules", "routing rules", (1, 10, 100), LINEAR, whole(rules)),
    Line("filters", "filters", (1, 10, 100), LINEAR, whole(filters)),
    Line("headers", "headers of a request", (1, 9, 81), LINEAR, headers),
    Line("body/plain", "bytes of a body", (1 << 10, 10 << 10, 100 << 10, 1 << 20), LINEAR, body(plain)),
    Line("body/governed", "bytes of a body", (1 << 10, 10 << 10, 100 << 10, 1 << 20), LINEAR, body(governed)),
    Line("messages", "messages", BY_TEN, LINEAR, made(messages)),
    Line("members", "members of a tool", BY_TEN, LINEAR, made(members)),
    Line("outermost", "members of a body", BY_TEN, LINEAR, made(unknown_members)),
    Line("answer", "bytes of an answer", (1 << 10, 10 << 10, 100 << 10, 1 << 20), LINEAR, answer),
    Line("tokens", "tokens of a stream", BY_TEN, LINEAR, tokens),
    Line("idle", "idle connections", (1, 10, 100, 1000), REQUEST, idle),
    Line("streams", "open streams", BY_TEN, {"request": 0.1}, streams),
    Line("kept", "kept answers", (100, 1000, 10_000), {"hit": "flat", "miss": "flat"}, kept),
    Line("waiting", "requests that wait", BY_TEN, {"join": 1.0}, waiting),
]
