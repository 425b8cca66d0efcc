// The last requests, with a waterfall each: what a request met, when, and for how long; our own time apart.

import { Refused, ask } from "/page/api.js";
import { bar, el, millis, money, number } from "/page/show.js";

const SHOWN = 40;
/** The list need not be asked for as often as the numbers. */
const EVERY = 2000;

const KINDS = [["k-auth", "auth"], ["k-limits", "limits"], ["k-cache", "cache"], ["k-filter", "other filters"], ["k-body", "body"], ["k-queue", "queue"], ["k-attempt", "attempt"], ["k-first", "first token"], ["k-stream", "stream"], ["k-pause", "pause"], ["k-own", "our overhead"]];

const FILTERS = [[/^(api_key|jwt)/, "k-auth"], [/^(limits|budget)/, "k-limits"], [/^(prompt_cache|idempotency|shared_flight)/, "k-cache"]];

function kind(step) {
  if (step.step === "filter") return FILTERS.find(([name]) => name.test(step.name))?.[1] ?? "k-filter";
  return { body: "k-body", queue: "k-queue", attempt: "k-attempt", first_token: "k-first", stream: "k-stream", pause: "k-pause" }[step.step] ?? "k-filter";
}

function label(step) {
  switch (step.step) {
    case "filter": return [step.name, step.verdict];
    case "queue": return ["queue", `${step.pool}, ${step.outcome}`];
    case "attempt": return [`attempt ${step.number}`, `${step.backend}, ${step.outcome}`];
    case "first_token": return ["first token", ""];
    case "stream": return ["stream", ""];
    case "pause": return ["pause before the next attempt", ""];
    default: return [step.step.replaceAll("_", " "), ""];
  }
}

/** The bar of one step on a track that is `all` milliseconds long. */
function piece(step, all) {
  const left = Math.min(step.at_ms / all, 1);
  return bar(kind(step), Math.min(left, 0.995), Math.min(step.took_ms / all, 1 - left), `${label(step).filter(Boolean).join(": ")} ${millis(step.took_ms)}`);
}

const length = (request) => Math.max(request.duration_ms, 0.001);

function waterfall(request) {
  const all = length(request);
  const rows = (request.steps ?? []).map((step) => {
    const [name, more] = label(step);
    const title = more ? `${name} (${more})` : name;
    return el("div.fall", {}, el("span.name", { title }, el(`i.${kind(step)}`), name, more ? el("span", {}, ` ${more}`) : null), el("div.track", {}, piece(step, all)), el("span.ms", {}, millis(step.took_ms)));
  });
  const own = Math.min((request.overhead_ms ?? 0) / all, 1);
  rows.push(el("div.fall.own", {}, el("span.name", { title: "time that the gateway itself added" }, el("i.k-own"), "our own overhead"), el("div.track", {}, bar("k-own", 0, own)), el("span.ms", {}, millis(request.overhead_ms))));
  return el("div.falls", {}, ...rows);
}

function facts(request) {
  const { tokens, cost, notes } = request;
  const who = [request.org, request.team, request.user ?? request.service].filter(Boolean).join("/");
  const counted = tokens ? `${number(tokens.prompt)} in, ${number(tokens.completion)} out${tokens.cached ? `, ${number(tokens.cached)} of the prompt cached` : ""}${tokens.estimated ? " (estimated)" : ""}` : undefined;
  const rows = {
    "request id": request.request_id, "trace id": request.trace_id, path: `${request.method} ${request.path}`, who, key: request.key_id,
    "answered by": request.backend ?? request.source, pool: request.pool, cause: request.cause === "none" ? undefined : request.cause, error: request.error,
    "whole time": millis(request.duration_ms), "first token": request.ttft_ms === undefined ? undefined : millis(request.ttft_ms),
    "in queues": request.queue_ms ? millis(request.queue_ms) : undefined, tokens: counted, cost: cost ? money(cost.amount, cost.currency) : undefined,
    attempts: request.attempts > 1 ? request.attempts : undefined, "retried after": request.retried?.join(", "), fallback: request.fallback?.join(", "), client: request.client,
    ...notes,
  };
  const told = Object.entries(rows).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return el("dl.facts2", {}, ...told.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, `${value}`))));
}

/** Whose fault it is, and not what its first line said: a stream that broke off had a 200. */
const CALLERS = ["client", "validation", "auth", "limit", "client_gone"];
const level = (cause) => (cause === "none" ? "" : CALLERS.includes(cause) ? ".warn" : ".bad");

function row(request) {
  const name = request.model ?? request.path;
  const by = request.backend ?? request.source;
  const cause = request.cause === "none" ? undefined : request.cause.replaceAll("_", " ");
  const summary = el(
    "summary", { "aria-label": [request.status, ...(cause ? [cause] : []), name, millis(request.duration_ms)].join(", ") },
    el(`span.status${level(request.cause)}`, {}, `${request.status}`),
    el("span.what", { title: `${name} ${by ?? ""} ${cause ?? ""}` }, cause ? el("b", {}, `${cause} `) : null, name, by ? el("span", {}, ` ${by}`) : null),
    el("span.track", {}, ...(request.steps ?? []).map((step) => piece(step, length(request)))),
    el("span.took", {}, millis(request.duration_ms)),
    el("span.when", {}, new Date(request.time).toLocaleTimeString([], { hour12: false })),
  );
  const made = el("details.request", {}, summary);
  made.addEventListener("toggle", () => {
    if (made.open && made.children.length === 1) made.append(el("div.inside", {}, waterfall(request), facts(request)));
  });
  made.dataset.number = request.number;
  return made;
}

export function requests({ list, legend, failed }) {
  legend.append(...KINDS.map(([colour, name]) => el("li", {}, el(`i.${colour}`), name)));
  let last = 0;
  failed.addEventListener("change", () => {
    list.replaceChildren();
    last = 0;
  });

  /** Who is there stays as it is, opened or not; the new come on top. */
  function show(all) {
    const there = new Set([...list.children].map((made) => made.dataset.number));
    const fresh = all.filter((request) => !there.has(`${request.number}`));
    if (fresh.length || all.length) list.querySelector(".none")?.remove();
    list.prepend(...fresh.map(row));
    [...list.children].slice(SHOWN).filter((made) => !made.open).forEach((made) => made.remove());
    if (!list.children.length) list.append(el("p.none", {}, failed.checked ? "None of the kept requests has failed." : "No request has come yet."));
  }

  return {
    async look() {
      if (Date.now() - last < EVERY) return;
      last = Date.now();
      try {
        show((await ask(`/admin/requests?limit=${SHOWN}${failed.checked ? "&cause=failed" : ""}`)).requests);
      } catch (fault) {
        if (!(fault instanceof Refused) || fault.status === 401) throw fault;
        list.replaceChildren(el("p.none", {}, fault.message));
      }
    },
    /** One, opened. It is there a moment after its answer has ended. */
    async one(id) {
      for (let tries = 0; ; tries += 1) {
        try {
          const made = row(await ask(`/admin/requests/${encodeURIComponent(id)}`));
          made.open = true;
          return made;
        } catch (fault) {
          if (!(fault instanceof Refused) || fault.status !== 404 || tries > 20) throw fault;
          await new Promise((done) => setTimeout(done, 100));
        }
      }
    },
  };
}
