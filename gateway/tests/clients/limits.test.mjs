// openai-node under limits: it waits as long as it is told, by itself, and finishes without an error.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const { BASE_URL, TOKENS_URL, API_KEY } = process.env;
const messages = [{ role: "user", content: "hi" }];
const chat = { model: "tiny-random", messages, max_tokens: 2, temperature: 0, seed: 1, ignore_eos: true };

test("it waits for its turn", async () => {
  const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
  const start = performance.now();
  for (let n = 0; n < 6; n++) {
    assert.equal((await client.chat.completions.create(chat)).usage.completion_tokens, 2);
  }
  assert.ok(performance.now() - start > 1000);
});

test("streams at once get through one after the other", async () => {
  const client = new OpenAI({ baseURL: TOKENS_URL, apiKey: API_KEY, maxRetries: 8 });
  const stream = async () => {
    let pieces = 0;
    for await (const piece of await client.chat.completions.create({ ...chat, max_tokens: 60, stream: true })) {
      pieces += piece.choices.length;
    }
    return pieces;
  };
  for (const pieces of await Promise.all(Array.from({ length: 6 }, stream))) assert.ok(pieces > 1);
});

test("without retries it is the SDK's own error", async () => {
  const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
  await assert.rejects(Promise.all(Array.from({ length: 6 }, () => client.chat.completions.create(chat))), (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.code, "rate_limit_exceeded");
    assert.ok(Number(error.headers.get("retry-after-ms")) > 0);
    return true;
  });
});
