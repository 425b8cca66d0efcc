// openai-node as people use it: against the gateway, and against the server behind it where results are compared.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const { BASE_URL, DIRECT_URL, API_KEY } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const bare = new OpenAI({ baseURL: DIRECT_URL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const chat = { model: "tiny-random", messages, max_tokens: 12, temperature: 0, seed: 1 };

test("chat says what the server says", async () => {
  const [ours, theirs] = await Promise.all([client, bare].map((each) => each.chat.completions.create(chat)));
  assert.deepEqual(ours.choices, theirs.choices);
});

test("a stream brings every piece", async () => {
  const pieces = async (each) => {
    const found = [];
    for await (const chunk of await each.chat.completions.create({ ...chat, stream: true })) {
      found.push([chunk.choices[0].delta.content, chunk.choices[0].finish_reason]);
    }
    return found;
  };
  assert.deepEqual(await pieces(client), await pieces(bare));
});

test("the answer names the model that was asked for", async () => {
  assert.equal((await client.chat.completions.create({ ...chat, model: "gpt-4o-mini" })).model, "gpt-4o-mini");
});

test("embeddings have their numbers", async () => {
  const made = await client.embeddings.create({ model: "tiny-embed", input: "words" });
  assert.equal(made.data[0].embedding.length, 64);
});

test("responses", async () => {
  const made = await client.responses.create({ model: "tiny-random", input: "hi", max_output_tokens: 5 });
  assert.equal(made.status, "completed");
});

test("errors are the classes the SDK has", async () => {
  await assert.rejects(client.chat.completions.create({ ...chat, model: "nothing" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  const stranger = new OpenAI({ baseURL: BASE_URL, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  await assert.rejects(client.chat.completions.create({ ...chat, messages: "none" }), OpenAI.BadRequestError);
});

test("an aborted stream ends quietly", async () => {
  const stream = await client.chat.completions.create({ ...chat, max_tokens: 1500, stream: true, ignore_eos: true });
  let seen = 0;
  for await (const _ of stream) {
    if (++seen === 3) stream.controller.abort();
  }
  assert.ok(seen >= 3 && seen < 1500);
});

test("200 calls at once", async () => {
  const calls = Array.from({ length: 200 }, () => client.chat.completions.create({ ...chat, max_tokens: 2, ignore_eos: true }));
  for (const made of await Promise.all(calls)) assert.equal(made.usage.completion_tokens, 2);
});
