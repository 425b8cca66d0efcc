"""Clients that read slowly, each one a stream that never ends by itself."""

import contextlib
import json
import socket
import threading
import urllib.parse

READERS = 16
AT_ONCE = 2048
EVERY = 0.1
MODEL = "mock-stream-200000-0"


@contextlib.contextmanager
def readers(server):
    """So many of them for as long as the block lasts. Gives a function that says how many are still being served."""
    over = threading.Event()
    alive = [False] * READERS
    threads = [threading.Thread(target=_read, args=(server, over, alive, at), daemon=True) for at in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(alive)
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=5)


def _request(server, number):
    url = urllib.parse.urlsplit(server.url)
    question = [{"role": "user", "content": f"{number}"}]
    body = json.dumps({"model": MODEL, "stream": True, "messages": question}, separators=(",", ":")).encode()
    key = [f"authorization: Bearer {server.key}"] if server.key else []
    length = f"content-length: {len(body)}"
    head = [f"POST {url.path} HTTP/1.1", f"host: {url.netloc}", "content-type: application/json", *key, *server.headers, length]
    return (url.hostname, url.port), "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _read(server, over, alive, number):
    address, request = _request(server, number)
    with contextlib.suppress(OSError), socket.socket() as one:
        # What the kernel keeps for a client must not be what is measured.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        one.settimeout(5)
        one.connect(address)
        one.sendall(request)
        alive[number] = True
        while not over.wait(EVERY) and one.recv(AT_ONCE):
            pass
    alive[number] = over.is_set() and alive[number]
