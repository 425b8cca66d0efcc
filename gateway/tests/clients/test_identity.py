"""Who is behind a request, as others say it: tokens by PyJWT, and the PROXY protocol by HAProxy."""

import base64
import contextlib
import datetime
import hmac
import http.server
import json
import subprocess
import threading
import time

import httpx2
import jwt
import openai
import pytest
from conftest import BINARY, free_port, process, wait_for
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a secret that is shared with the issuer, and long enough"
HI = [{"role": "user", "content": "hi"}]
KEYS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "HS256": SECRET,
}


@pytest.fixture(scope="module")
def jwks():
    """The public keys of the issuer, served as an issuer does."""
    keys = []
    for name, key in KEYS.items():
        if name != "HS256":
            public = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
            keys.append({**public, "kid": name, "alg": name, "use": "sig"})

    class Issuer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"keys": keys}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    server.shutdown()


@contextlib.contextmanager
def gateway(folder, name, rest):
    """A gateway with this configuration; gives its port and its log."""
    port, admin = free_port(), free_port()
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    config.write_text(f"admin: {{ listen: 127.0.0.1:{admin} }}\nlog: {{ format: json }}\n{rest(port)}")
    with process([BINARY, "run", "--config", str(config)], log) as child:
        wait_for(f"http://127.0.0.1:{admin}/readyz", child, log)
        yield port, log


@pytest.fixture(scope="module")
def tokens(direct, jwks, folder):
    """The address of a gateway that takes the issuer's tokens."""

    def config(port):
        return f"""\
listen: 127.0.0.1:{port}
filters:
  - jwt:
      issuer: https://issuer.example
      audience: [tidegate]
      algorithms: [RS256, ES256, EdDSA, HS256]
      jwks: {{ url: "{jwks}" }}
      secret: "{SECRET}"
      clock_skew: 1s
      claims: {{ org: tenant }}
pools:
  chat: {{ backends: [{direct}] }}
"""

    with gateway(folder, "tokens", config) as (port, log):
        yield f"http://127.0.0.1:{port}", log


def token(algorithm, key=None, kid=None, **changed):
    now = datetime.datetime.now(datetime.timezone.utc)
    claims = {"iss": "https://issuer.example", "aud": "tidegate", "sub": "ann", "tenant": "acme", "iat": now}
    claims |= {"exp": now + datetime.timedelta(minutes=5)} | changed
    kid = {"kid": kid or algorithm} if algorithm != "HS256" else None
    return jwt.encode(claims, key or KEYS[algorithm], algorithm=algorithm, headers=kid)


def with_a_swapped_algorithm(public):
    """By hand, since PyJWT takes no public key for a secret either."""
    part = lambda content: base64.urlsafe_b64encode(content).rstrip(b"=")
    signed = part(b'{"alg":"HS256","kid":"RS256"}') + b"." + token("RS256").split(".")[1].encode()
    return (signed + b"." + part(hmac.digest(public, signed, "sha256"))).decode()


def ask(url, credential):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=credential)
    return client.chat.completions.create(model="tiny-random", messages=HI, max_tokens=2)


def logged(log, request_id):
    """The line of a request, which is written when it is over."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (read := json.loads(line)).get("request_id") == request_id:
                return read
        time.sleep(0.05)
    pytest.fail(f"no line about {request_id}:\n{log.read_text()}")


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_by_pyjwt_says_who_asks(tokens, algorithm):
    url, log = tokens
    answer = httpx2.post(
        f"{url}/v1/chat/completions",
        headers={"authorization": f"Bearer {token(algorithm)}"},
        json={"model": "tiny-random", "messages": HI, "max_tokens": 2},
    )
    assert answer.status_code == 200, answer.text
    line = logged(log, answer.headers["x-request-id"])
    assert (line["user"], line["org"]) == ("ann", "acme")
    assert ask(url, token(algorithm)).usage.completion_tokens == 2


def test_a_token_that_is_none_of_the_issuers_lets_nobody_in(tokens):
    url, log = tokens
    now = datetime.datetime.now(datetime.timezone.utc)
    minute = datetime.timedelta(minutes=1)
    public = KEYS["RS256"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    wrong = {
        "another key": token("ES256", ec.generate_private_key(ec.SECP256R1())),
        "another's key id": token("EdDSA", kid="ES256"),
        "a key id that is not known": token("ES256", kid="unknown"),
        "signed by the public key": with_a_swapped_algorithm(public),
        "another secret": token("HS256", "another secret, as long as the first one is, or longer"),
        "over": token("RS256", exp=now - minute),
        "not yet": token("RS256", nbf=now + minute),
        "another issuer": token("EdDSA", iss="https://other.example"),
        "for somebody else": token("EdDSA", aud="other"),
        "not signed": jwt.encode({"sub": "ann"}, None, algorithm="none"),
        "nobody's": token("ES256", sub=""),
    }
    for what, credential in wrong.items():
        with pytest.raises(openai.AuthenticationError) as refused:
            ask(url, credential)
        assert refused.value.code == "invalid_token", what
        line = logged(log, refused.value.response.headers["x-request-id"])
        assert line["notes"]["jwt"], what


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_haproxy_says_where_a_client_is(direct, folder, version):
    def config(port):
        listen = f"listen: {{ address: 127.0.0.1:{port}, proxy_protocol: true }}\n"
        return f"{listen}trusted_proxies: [127.0.0.1]\npools: {{ chat: {{ backends: [{direct}] }} }}\n"

    with gateway(folder, version, config) as (port, log):
        front, said = free_port(), folder / f"haproxy-{version}.log"
        rules = folder / f"haproxy-{version}.cfg"
        rules.write_text(f"""\
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen front
    bind 127.0.0.1:{front}
    server gateway 127.0.0.1:{port} {version}
""")
        subprocess.run(["haproxy", "-c", "-f", rules], check=True, capture_output=True)
        with process(["haproxy", "-db", "-f", str(rules)], said) as child:
            wait_for(f"http://127.0.0.1:{front}/v1/models", child, said)
            with httpx2.Client(transport=httpx2.HTTPTransport(local_address="127.0.0.77")) as client:
                for _ in range(2):
                    answer = client.post(
                        f"http://127.0.0.1:{front}/v1/chat/completions",
                        json={"model": "tiny-random", "messages": HI, "max_tokens": 2},
                    )
                    assert answer.status_code == 200, answer.text
                    assert logged(log, answer.headers["x-request-id"])["client"] == "127.0.0.77"
