"""The OpenAPI documents are valid, and real answers are as they say."""

import json

import httpx2
import pytest
from conftest import BINARY, ROOT, free_port, process, wait_for
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

CLIENTS = json.loads((ROOT / "docs/openapi.json").read_text())
ADMIN = json.loads((ROOT / "docs/openapi-admin.json").read_text())
TOKEN = "a-token-of-the-openapi-test"


@pytest.mark.parametrize("document", [CLIENTS, ADMIN], ids=["clients", "admin"])
def test_the_documents_are_openapi(document):
    OpenAPIV31SpecValidator(document).validate()


def strict(schema):
    """Nothing may be in an answer that the document does not name."""
    if isinstance(schema, dict):
        told = {key: strict(value) for key, value in schema.items()}
        if "properties" in told and "allOf" not in told and isinstance(told["properties"], dict):
            told.setdefault("additionalProperties", False)
        return told
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


def holds(document, path, method, answer):
    """That an answer is one of those the document has for this operation."""
    told = document["paths"][path][method]["responses"][str(answer.status_code)]
    if "$ref" in told:
        told = document["components"]["responses"][told["$ref"].split("/")[-1]]
    kind = answer.headers["content-type"].split(";")[0]
    assert kind in told["content"], (path, kind)
    if schema := told["content"][kind].get("schema"):
        if kind.endswith("json"):
            loose = {"ManagedKey", "Key"}  # Two that make one: neither names what the other has.
            schemas = {name: one if name in loose else strict(one) for name, one in document["components"]["schemas"].items()}
            whole = {**schema, "components": {"schemas": schemas}}
            faults = list(Draft202012Validator(whole).iter_errors(answer.json()))
            assert not faults, (path, [f"{fault.json_path}: {fault.message}" for fault in faults][:5])


@pytest.fixture(scope="module")
def gateway(direct, key_and_hash, folder):
    port, admin = free_port(), free_port()
    config, log = folder / "openapi.yaml", folder / "openapi.log"
    config.write_text(f"""\
listen: 127.0.0.1:{port}
admin: {{ listen: 127.0.0.1:{admin}, token: {TOKEN} }}
storage: {{ path: {folder}/openapi.db }}
prices: {{ models: {{ "*": {{ prompt: 2, completion: 8 }} }} }}
filters:
  - api_key: {{ keys: [ {{ id: clients, hash: "{key_and_hash[1]}", user: ann, org: acme }} ] }}
  - limits: [ {{ per: user, requests: 1/h, burst: 1, models: [limited] }}, {{ per: org, tokens: 10M/s }} ]
  - prompt_cache: {{ for: 1h, scope: org }}
models: {{ tiny: {{ pool: chat, as: tiny-random }}, limited: {{ pool: chat, as: tiny-random }} }}
pools: {{ chat: {{ backends: [ {{ url: {direct}, max_in_flight: 4 }} ] }} }}
""")
    with process([BINARY, "run", "--config", str(config)], log) as child:
        wait_for(f"http://127.0.0.1:{admin}/readyz", child, log)
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"


def test_what_clients_are_told_is_as_the_document_says(gateway, authorized):
    def chat(model, headers=authorized, **more):
        call = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, **more}
        return httpx2.post(f"{gateway[0]}/v1/chat/completions", json=call, headers=headers, timeout=60)

    answers = [chat("tiny"), chat("tiny", stream=True), chat("limited"), chat("limited"), chat("nobody"), chat("tiny", {}), chat(7)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 404, 401, 400]
    for answer in answers:
        holds(CLIENTS, "/v1/chat/completions", "post", answer)
    holds(CLIENTS, "/v1/models", "get", httpx2.get(f"{gateway[0]}/v1/models", headers=authorized))
    messages = httpx2.post(f"{gateway[0]}/v1/messages", json={"model": "nobody", "messages": []}, headers=authorized)
    assert messages.status_code == 404
    holds(CLIENTS, "/v1/messages", "post", messages)


def test_what_operators_are_told_is_as_the_document_says(gateway, authorized):
    call = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    sent = httpx2.post(f"{gateway[0]}/v1/chat/completions", json=call | {"stream": True}, headers=authorized, timeout=60)
    assert sent.status_code == 200
    admin = httpx2.Client(base_url=gateway[1], headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
    made = admin.post("/admin/keys", json={"id": "k1", "user": "bob", "org": "acme"})
    assert made.status_code == 201
    holds(ADMIN, "/admin/keys", "post", made)
    # Each that can be looked at, with what its path and query need.
    needs = {
        "/admin/limits/{subject}": ["/admin/limits/org:acme", "/admin/limits/nonsense"],
        "/admin/spenders": ["/admin/spenders?by=user", "/admin/spenders"],
        "/admin/keys/{id}": ["/admin/keys/k1", "/admin/keys/none"],
        "/admin/requests/{id}": [f"/admin/requests/{sent.headers['x-request-id']}", "/admin/requests/none"],
        "/admin/playground/{path}": [],
        "/admin/usage": ["/admin/usage", "/admin/usage?limit=0"],
    }
    asked = 0
    for path, methods in ADMIN["paths"].items():
        for one in needs.get(path, [path]) if "get" in methods else []:
            holds(ADMIN, path, "get", admin.get(one))
            asked += 1
    assert asked > 20
    backend = next(iter(admin.get("/admin/backends").json()["chat"]["backends"]))
    for path, method, one, body in (
        ("/admin/backends/{pool}/{backend}/drain", "post", f"/admin/backends/chat/{backend}/drain", None),
        ("/admin/backends/{pool}/{backend}/undrain", "post", f"/admin/backends/chat/{backend}/undrain", None),
        ("/admin/cache/purge", "post", "/admin/cache/purge", {"tenant": "org/acme"}),
        ("/admin/cache/purge", "post", "/admin/cache/purge", {}),
        ("/admin/cache", "delete", "/admin/cache", None),
        ("/admin/log", "put", "/admin/log", {"level": "debug"}),
        ("/admin/log", "put", "/admin/log", {"level": None}),
        ("/admin/reload", "post", "/admin/reload", None),
        ("/admin/config/rollback/{version}", "post", "/admin/config/rollback/99", None),
        ("/admin/keys/{id}/rotate", "post", "/admin/keys/k1/rotate", {"overlap": "1h"}),
        ("/admin/keys/{id}/revoke", "post", "/admin/keys/k1/revoke", None),
        ("/admin/keys", "post", "/admin/keys", {"models": 7}),
    ):
        holds(ADMIN, path, method, admin.request(method, one, json=body) if body is not None else admin.request(method, one))
    refused = httpx2.get(f"{gateway[1]}/admin/live")
    assert refused.status_code == 401 and refused.headers["content-type"] == "application/problem+json"
