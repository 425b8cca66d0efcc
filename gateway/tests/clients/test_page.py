"""The pages of the admin listener in Chromium, before the built gateway with real traffic, and with the network cut off."""

import contextlib
import http.server
import os
import pathlib
import threading

import chromium
import httpx2
import pytest
from conftest import BINARY, free_port, process, wait_for

pytestmark = pytest.mark.skipif(not chromium.PROGRAM, reason="chromium is not installed: see .ci/prepare clients")

TOKEN = "a-token-of-the-page-test"
# Where to leave pictures, for people to look at.
PICTURES = os.environ.get("PICTURES")


class Breaks(http.server.BaseHTTPRequestHandler):
    """A server whose streams end in the middle."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def breaks():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def page_gateway(direct, breaks, key_and_hash, folder):
    """A gateway with all that the page shows; gives its address and its admin's."""
    port, admin, away = free_port(), free_port(), free_port()
    config, log = folder / "page.yaml", folder / "page.log"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin}, token: {TOKEN} }}
filters:
  - api_key: {{ keys: [ {{ id: clients, hash: "{key_and_hash[1]}", user: ann, org: acme }} ] }}
  - limits: [ {{ per: user, requests: 1/h, burst: 1, models: [limited] }}, {{ per: org, tokens: 10M/s }} ]
  - prompt_cache: {{ for: 1h, scope: org }}
models:
  tiny: {{ pool: chat, as: tiny-random }}
  limited: {{ pool: chat, as: tiny-random }}
  lost: {{ pool: broken, as: tiny-random }}
  cut: {{ pool: cut }}
pools:
  chat: {{ backends: [ {{ url: {direct}, max_in_flight: 4 }} ] }}
  spare: {{ backends: [{direct}] }}
  broken: {{ health: off, backends: [http://127.0.0.1:{away}] }}
  cut: {{ health: off, breaker: off, backends: [{breaks}] }}
""")
    with process([BINARY, "run", "--config", str(config)], log) as child:
        wait_for(f"http://127.0.0.1:{admin}/livez", child, log)
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"


@pytest.fixture(scope="module")
def traffic(page_gateway, key):
    """Clients that go on asking, until the tests are over."""
    stop = threading.Event()

    def ask():
        turn = 0
        with httpx2.Client(base_url=page_gateway[0], headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            while not stop.wait(0.2):
                turn += 1
                for model, words in (("tiny", f"hi {turn}"), ("tiny", "hi"), ("limited", "hi"), ("lost", "hi"), ("cut", "hi")):
                    call = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": 6, "temperature": 0}
                    with contextlib.suppress(httpx2.HTTPError):
                        client.post("/v1/chat/completions", json=call | {"stream": model == "cut" or turn % 2 == 0 and words != "hi"})

    client = threading.Thread(target=ask)
    client.start()
    yield
    stop.set()
    client.join()


@pytest.fixture
def page():
    with chromium.browser() as page:
        yield page


def enter(page, admin, path="/"):
    """Opens the page, and gives it the token as a person would."""
    page.go(f"{admin}{path}")
    page.until("document.getElementById('asks').open")
    page.eval(f"document.getElementById('secret').value = '{TOKEN}'; document.querySelector('#tokenform .main').click()")
    page.until("document.getElementById('state').textContent === 'ready'")


def all_is_from(page, admin):
    """Nothing was asked of anybody else, and nothing went wrong but what the tests want to."""
    assert page.asked and all(url.startswith(f"{admin}/") for url in page.asked if url != "about:blank"), set(page.asked)
    assert not [line for line in page.complaints if "401" not in line], page.complaints


def photograph(page, name, width, height, dark):
    page.look(width, height, dark)
    assert page.eval("document.documentElement.scrollWidth <= innerWidth"), f"{name}: wider than the screen"
    if PICTURES:
        page.photograph(pathlib.Path(PICTURES, f"{name}.png"))


def test_the_page_shows_what_goes_on_on_every_screen(page, page_gateway, traffic):
    admin = page_gateway[1]
    page.look(1400, 900)
    enter(page, admin)
    assert page.eval("sessionStorage.length") == 1 and page.eval("localStorage.length + document.cookie.length") == 0
    text = "document.getElementById({!r}).innerText"
    for place, words in {
        "charts": ["Requests", "Time to first token"], "stats": ["our overhead p50"], "models": ["tiny", "lost"],
        "pools": ["pool chat", "up"], "limited": ["acme/ann"], "limits": ["org/tokens"], "cache": ["hit"],
    }.items():
        for word in words:
            page.until(f"{text.format(place)}.includes({word!r})")
    page.until("/^[1-9.]/.test(document.querySelector('.big').innerText)")
    page.until("document.querySelectorAll('details.request').length > 5")
    page.eval("document.querySelector('details.request').open = true")
    page.until("document.querySelector('.fall.own')")
    for name, (width, height, dark) in {"desktop": (1400, 900, False), "phone": (360, 740, False), "dark": (1400, 900, True), "phone-dark": (360, 740, True)}.items():
        photograph(page, name, width, height, dark)
    all_is_from(page, admin)


def test_a_waterfall_has_each_step_and_our_own_time_apart(page, page_gateway, traffic):
    enter(page, page_gateway[1])
    page.until("[...document.querySelectorAll('details.request')].some((one) => one.querySelector('.track .k-stream'))")
    page.eval("[...document.querySelectorAll('details.request')].find((one) => one.querySelector('.track .k-stream')).open = true")
    steps = page.until("[...document.querySelectorAll('.fall .name')].map((name) => name.innerText).join('|')")
    for step in ("api_key", "limits", "prompt_cache", "attempt 1", "first token", "stream", "our own overhead"):
        assert step in steps, steps


def test_the_playground_goes_through_the_real_chain_and_shows_its_waterfall(page, page_gateway, traffic, key):
    enter(page, page_gateway[1])
    fill = "document.getElementById({!r}).value = {!r}"
    page.eval(";".join(fill.format(*pair) for pair in {"model": "tiny", "most": "8", "prompt": "a word, please", "key": "tg-wrong"}.items()))
    page.eval("document.getElementById('send').click()")
    assert page.until("document.getElementById('told').innerText.startsWith('401')")
    page.eval(fill.format("key", key))
    page.eval("document.getElementById('send').click()")
    page.until("document.getElementById('told').innerText.startsWith('200')")
    assert "first token after" in page.eval("document.getElementById('told').innerText")
    page.until("document.querySelector('#mine details[open] .fall.own')")
    assert "x-request-id" in page.eval("document.getElementById('heads').innerText")
    all_is_from(page, page_gateway[1])


def test_a_backend_is_drained_and_taken_back_with_the_keyboard_alone(page, page_gateway, traffic):
    admin = page_gateway[1]
    enter(page, admin)
    page.until("document.querySelector('.backend button')?.textContent")
    focused = "document.activeElement.getAttribute('aria-label') ?? ''"
    for _ in range(60):
        page.key("Tab")
        if page.eval(focused).startswith("Drain ") and page.eval(focused).endswith(" of spare"):
            break
    else:
        raise AssertionError("no key leads to the button")
    assert page.eval("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.key("Enter", "\r")
    page.until(f"({focused}).startsWith('Take back')")
    backends = httpx2.get(f"{admin}/admin/backends", headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert [backend["state"] for backend in backends["spare"]["backends"].values()] == ["draining"]
    page.key("Enter", "\r")
    page.until(f"({focused}).startsWith('Drain')")


def test_whatever_can_be_used_has_a_name(page, page_gateway, traffic):
    enter(page, page_gateway[1])
    page.until("document.querySelector('details.request')")
    nameless = """[...document.querySelectorAll('button, input, textarea, a, summary, [role=img], [role=region], pre')]
        .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.getAttribute('aria-labelledby') || one.innerText?.trim() || one.closest('dialog:not([open])')))
        .map((one) => one.outerHTML)"""
    assert page.eval(nameless) == []
    assert page.eval("document.querySelectorAll('h1').length") == 1 and page.eval("document.documentElement.lang") == "en"


def test_a_gateway_that_goes_away_is_said_so_and_comes_back(page, page_gateway):
    """Its place is taken by a file that nobody serves."""
    enter(page, page_gateway[1])
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.until("document.getElementById('state').textContent === 'gateway away'")
    assert page.eval("!document.getElementById('banner').hidden")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.until("document.getElementById('state').textContent === 'ready' && document.getElementById('banner').hidden")


def test_the_docs_show_both_documents_offline(page, page_gateway):
    admin = page_gateway[1]
    page.look(1400, 900)
    page.go(f"{admin}/docs")
    page.until("document.getElementById('content').innerText.includes('/v1/chat/completions')")
    page.eval("document.getElementById('post_v1_chat_completions').open = true")
    page.until("document.querySelector('#post_v1_chat_completions .answers')?.innerText.includes('429')")
    page.eval("document.querySelectorAll('[data-document]')[1].click()")
    page.until("document.getElementById('content').innerText.includes('/admin/backends/{pool}/{backend}/drain')")
    page.eval("document.getElementById('get_admin_live').open = true")
    page.until("document.querySelector('#get_admin_live form')")
    photograph(page, "docs", 1400, 900, False)
    photograph(page, "docs-phone", 360, 740, True)
    all_is_from(page, admin)


# Each text that is seen, with the contrast of its colour to what lies behind it (WCAG 2.1, 1.4.3): 4.5 to 1, and 3 to 1 for
# large text. Layers that let something through are laid over each other as browsers do.
CONTRASTS = """(() => {
  const parse = (text) => {
    const numbers = (text.match(/-?[\\d.]+(e-?\\d+)?/g) ?? []).map(Number);
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    return [...numbers.slice(0, 3).map((part) => part * scale), numbers[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [255, 255, 255, 1]);
  };
  return [...document.querySelectorAll("body *")].flatMap((element) => {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    const style = getComputedStyle(element);
    if (!own || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || element.matches(":disabled, :disabled *")) return [];
    const ground = behind(element);
    const [a, b] = [light(over(parse(style.color), ground)), light(ground)];
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return [[ratio, large ? 3 : 4.5, `${element.tagName}.${element.className}: ${own.slice(0, 40)}`]];
  });
})()"""


def contrasts(page, what, least):
    """Nothing is too pale: all texts of the page as it is, light and dark. Gives the least contrast of each."""
    found = {}
    for dark in (False, True):
        page.look(1400, 900, dark)
        texts = page.eval(CONTRASTS)
        pale = [text for text in texts if text[0] < text[1]]
        assert len(texts) > least and not pale, f"{what}, {'dark' if dark else 'light'}: {pale}"
        found[dark] = min(text[0] for text in texts)
    print(f"{what}: least contrast {found[False]:.2f} light, {found[True]:.2f} dark")


def test_all_text_stands_out_from_what_is_behind_it_by_day_and_by_night(page, page_gateway, traffic):
    admin = page_gateway[1]
    page.look(1400, 900)
    enter(page, admin)
    page.until("document.querySelectorAll('details.request').length > 5")
    for level in (".status.bad", ".status.warn", ".status:not(.bad):not(.warn)"):
        page.until(f"document.querySelector('details.request {level}')")
    page.eval("document.querySelector('details.request').open = true")
    page.until("document.querySelector('.fall.own')")
    contrasts(page, "the page", 100)
    page.go(f"{admin}/docs")
    page.until("document.getElementById('content').innerText.includes('/v1/chat/completions')")
    page.eval("document.getElementById('post_v1_chat_completions').open = true")
    page.until("document.querySelector('#post_v1_chat_completions .answers')?.innerText.includes('429')")
    contrasts(page, "the documents", 100)
    page.eval("document.querySelectorAll('[data-document]')[1].click()")
    page.until("document.getElementById('content').innerText.includes('/admin/backends/{pool}/{backend}/drain')")
    contrasts(page, "the documents for operators", 100)


def test_a_stream_that_broke_does_not_look_like_one_that_went_well(page, page_gateway, traffic):
    """By whose fault it is, not by the status that its first line had."""
    enter(page, page_gateway[1])
    shown = """(() => { const found = {};
      for (const one of document.querySelectorAll('details.request > summary')) {
        const badge = one.querySelector('.status'), words = one.querySelector('.what b')?.innerText.trim() ?? '';
        found[`${words}/${badge.className}`] = one.getAttribute('aria-label');
      } return found; })()"""
    # A 200 that is no success.
    page.until("[...document.querySelectorAll('details.request .status.bad')].some((one) => one.innerText === '200')")
    for key, label in page.eval(shown).items():
        cause, look = key.split("/")
        wanted = "status" if not cause else "status warn" if cause in ("client", "validation", "auth", "limit", "client gone") else "status bad"
        assert look == wanted and cause in label, (key, label)
