// A request through the real chain, and what came of it.

import { raw } from "/page/api.js";
import { el, fill, time } from "/page/show.js";

const $ = (id) => document.getElementById(id);

/** Headers of the answer that say what the gateway did. */
const TOLD = /^(x-request-id|x-upstream-request-id|cache-status|age|retry-after|x-ratelimit-.*|x-tidegate-.*|idempotent-replayed)$/;

/** The events of a stream, as JSON, one after the other. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (text + value).split(/\r?\n/);
    text = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:") && line.slice(5).trim() !== "[DONE]") yield JSON.parse(line.slice(5));
    }
  }
}

export function playground({ show }) {
  let stop = null;

  function heads(answer) {
    const told = [...answer.headers].filter(([name]) => TOLD.test(name));
    $("heads").replaceChildren(...told.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  async function read(answer, begun) {
    if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      const text = await answer.text();
      const body = JSON.parse(text || "{}");
      const said = body.choices?.[0]?.message;
      $("answer").textContent = said?.content ?? body.error?.message ?? body.detail ?? text;
      return { usage: body.usage };
    }
    let [first, usage, fault] = [undefined, undefined, undefined];
    for await (const event of events(answer.body)) {
      if (event.error) fault = event.error.message;
      const delta = event.choices?.[0]?.delta;
      const piece = delta?.content ?? delta?.reasoning_content;
      if (piece) {
        if (first === undefined) {
          first = (performance.now() - begun) / 1000;
          $("told").textContent = `First token after ${time(first)}; more is coming in …`;
        }
        $("answer").append(piece);
      }
      usage = event.usage ?? usage;
    }
    return { first, usage, fault };
  }

  async function send(submitted) {
    submitted.preventDefault();
    stop = new AbortController();
    [$("send").disabled, $("stop").disabled] = [true, false];
    $("told").textContent = "Asked; waiting for the first word …";
    [$("answer").textContent, $("answer").hidden] = ["", false];
    $("heads").replaceChildren();
    $("mine").replaceChildren();
    const headers = { "content-type": "application/json", "x-tidegate-key": $("key").value.trim() };
    if ($("anew").checked) headers["cache-control"] = "no-cache";
    const stream = $("stream").checked;
    const body = JSON.stringify({
      model: $("model").value.trim(), messages: [{ role: "user", content: $("prompt").value }], max_tokens: Number($("most").value) || undefined, stream,
      ...(stream ? { stream_options: { include_usage: true } } : {}),
    });
    const begun = performance.now();
    let id;
    try {
      const answer = await raw("/admin/playground/v1/chat/completions", { method: "POST", headers, body, signal: stop.signal });
      id = answer.headers.get("x-request-id");
      heads(answer);
      const { first, usage, fault } = await read(answer, begun);
      const parts = [`${answer.status}`, `${time((performance.now() - begun) / 1000)} in all`];
      if (first !== undefined) parts.push(`first token after ${time(first)}`);
      if (usage) parts.push(`${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`);
      if (fault) parts.push(fault);
      $("told").textContent = parts.join(" · ");
    } catch (fault) {
      $("told").textContent = fault.name === "AbortError" ? "Stopped: to the gateway, the client has left." : `There was no answer: ${fault.message}`;
    }
    [$("send").disabled, $("stop").disabled] = [false, true];
    if (id) $("mine").replaceChildren(await show(id).catch((fault) => el("p.none", {}, fault.message)));
  }

  $("ask").addEventListener("submit", send);
  $("stop").addEventListener("click", () => stop?.abort());
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });

  return {
    models(names) {
      const known = names.filter((name) => !["other", "other_paths"].includes(name) && !name.includes("*"));
      fill($("known"), known.map((name) => el("option", { value: name })));
      if (!$("model").value && known.length && document.activeElement !== $("model")) $("model").value = known[0];
    },
  };
}
