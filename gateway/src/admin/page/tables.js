// Models, backends, limits and the cache.

import { Refused, ask } from "/page/api.js";
import { failed, quantile, sum, total } from "/page/counts.js";
import { bar, bytes, el, fill, money, number, percent, time } from "/page/show.js";

const OVER = 30;
/** Rows of a table; the rest is in a last line. */
const ROWS = 40;

/** What has no model of the file. */
const NAMES = { other: "without a route", other_paths: "other paths" };

export function models(body, looks) {
  const { routes, currency, bounds } = looks.now;
  const rate = (name, read) => looks.rate((live) => (live.routes[name] ? read(live.routes[name]) : 0), OVER);
  const busy = Object.keys(routes).map((name) => [name, rate(name, (route) => route.requests)]);
  busy.sort(([a, x], [b, y]) => y - x || routes[b].in_flight - routes[a].in_flight || routes[b].requests - routes[a].requests || a.localeCompare(b));
  const rows = busy.slice(0, ROWS).map(([name, all]) => {
    const first = looks.spread((live) => live.routes[name]?.first_token, OVER);
    const share = all ? rate(name, failed) / all : undefined;
    const [p50, p95] = [0.5, 0.95].map((at) => time(quantile(first, at, bounds.first_token)));
    const tokens = rate(name, (route) => (route.tokens.output ?? 0) + (route.tokens.input ?? 0));
    const cells = [number(all), number(routes[name].in_flight), percent(share), p50, p95, number(tokens), money(routes[name].cost, currency)];
    return el("tr", {}, el("th", { scope: "row" }, NAMES[name] ?? name), ...cells.map((text, at) => el(`td.n${at === 2 && share > 0 ? ".bad" : ""}`, {}, text)));
  });
  if (busy.length > ROWS) rows.push(el("tr", {}, el("td.idle", { colspan: 8 }, `and ${busy.length - ROWS} more that have less to do`)));
  fill(body, rows, el("tr", {}, el("td.idle", { colspan: 8 }, "No request has come yet.")));
}

const KINDS = { up: "good", down: "bad", unknown: "warn", draining: "warn", leaving: "warn" };

async function turn(pool, name, verb, button) {
  // One that is disabled would lose the focus of whoever uses the keyboard.
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  const path = [pool, name].map((part) => part.split("/").map(encodeURIComponent).join("/")).join("/");
  try {
    await ask(`/admin/backends/${path}/${verb}`, { method: "POST" });
  } catch (fault) {
    document.getElementById("banner").textContent = fault instanceof Refused ? fault.message : "The gateway does not answer.";
    document.getElementById("banner").hidden = false;
  }
  button.ariaBusy = null;
}

/** A card that stays the same element while its numbers change, so that its button keeps the focus. */
function card(pool, name) {
  const button = el("button.small", { type: "button" });
  button.addEventListener("click", () => turn(pool, name, button.dataset.verb, button));
  const made = el("article.backend", {}, el("span.name", { title: name }, name), el("span.pill"), el("div.meter", {}, bar("", 0, 0)), el("div.more", {}, el("span"), button));
  made.dataset.name = name;
  return made;
}

function update(made, pool, name, backend, looks) {
  const of = (live) => live.pools[pool]?.backends[name];
  const rate = looks.rate((live) => of(live)?.requests ?? 0, OVER);
  const errors = looks.rate((live) => sum(of(live)?.errors), OVER);
  const [, pill, meter, more] = made.children;
  const trusted = backend.breaker === "closed" || backend.state !== "up";
  pill.className = `pill ${trusted ? KINDS[backend.state] : "warn"}`;
  pill.textContent = trusted ? backend.state : `breaker ${backend.breaker.replace("_", " ")}`;
  const most = backend.max_in_flight;
  const full = most ? Math.min(1, backend.in_flight / most) : 0;
  meter.firstChild.style.width = `${100 * full}%`;
  meter.className = full >= 1 ? "meter full" : "meter";
  meter.hidden = !most;
  const texts = [`${backend.in_flight}${most ? ` of ${most}` : ""} in flight`, `${number(rate)} /s`];
  if (errors > 0) texts.push(`${number(errors)} faults/s`);
  if (backend.cache_used > 0) texts.push(`KV cache ${percent(backend.cache_used)}`);
  const text = texts.join(" · ");
  if (more.firstChild.textContent !== text) more.firstChild.textContent = text;
  const drained = backend.state === "draining";
  const button = more.lastChild;
  button.dataset.verb = drained ? "undrain" : "drain";
  button.textContent = drained ? "Take back" : "Drain";
  button.setAttribute("aria-label", `${button.textContent} ${name} of ${pool}`);
  button.hidden = backend.state === "leaving";
}

export function backends(place, looks) {
  const pools = Object.entries(looks.now.pools);
  const wanted = pools.map(([pool]) => pool);
  [...place.children].filter((section) => !wanted.includes(section.dataset.pool)).forEach((section) => section.remove());
  for (const [pool, { queue, backends: all, panicking }] of pools) {
    let section = [...place.children].find((one) => one.dataset.pool === pool);
    if (!section) {
      section = el("section", {}, el("h3"), el("div.backends"));
      section.dataset.pool = pool;
      place.append(section);
    }
    const wait = quantile(looks.spread((live) => live.pools[pool]?.queue.wait, OVER), 0.95, looks.now.bounds.queue);
    const turned = looks.rate((live) => ["full", "hopeless", "expired"].reduce((so, how) => so + (live.pools[pool]?.queue.outcomes[how] ?? 0), 0), OVER);
    const said = [`pool ${pool}`];
    if (queue.waiting) said.push(`${queue.waiting} waiting`);
    if (wait !== undefined) said.push(`waited p95 ${time(wait)}`);
    if (turned > 0) said.push(`${number(turned)} /s not let in`);
    if (panicking) said.push("most are out: all are used");
    section.firstChild.textContent = said.join(" · ");
    const cards = section.lastChild;
    [...cards.children].filter((made) => !all[made.dataset.name]).forEach((made) => made.remove());
    for (const [name, backend] of Object.entries(all)) {
      let made = [...cards.children].find((one) => one.dataset.name === name);
      if (!made) cards.append((made = card(pool, name)));
      update(made, pool, name, backend, looks);
    }
  }
}

export function limits(who, table, looks) {
  const { limits: all, limited } = looks.now;
  const chips = limited.map((one) => el("li", {}, `${one.by} `, el("b", {}, one.org ? `${one.org}/${one.name}` : one.name), ` ${number(one.limited)} of ${number(one.requests)}`));
  const named = chips.length ? [el("h3", {}, "Being limited, the last five minutes"), el("ul.chips", {}, ...chips)] : [];
  const refusals = looks.rate((live) => total(live.limits, (limit) => limit.decisions.refused ?? 0), OVER);
  const nobody = el("p.none", {}, refusals > 0 ? "Whom the limits refuse is not known by name." : "Nobody is being limited.");
  fill(who, all.length ? (named.length ? named : [nobody]) : [], all.length ? null : el("p.none", {}, "The file has no limits."));
  table.hidden = !all.length;
  const decided = (at, name) => looks.rate((live) => live.limits.find((limit) => limit.limit === all[at].limit)?.decisions[name] ?? 0, OVER);
  const rows = all.map((limit, at) => ({ limit, granted: decided(at, "granted"), refused: decided(at, limit.shadow ? "would_refuse" : "refused") }));
  rows.sort((one, other) => other.refused - one.refused);
  const shown = rows.slice(0, ROWS).map(({ limit, granted, refused }) => el("tr", {}, el("th", { scope: "row" }, limit.limit, limit.shadow ? " (only counts)" : ""), el("td", {}, limit.allows), el("td.n", {}, number(granted)), el(`td.n${refused > 0 ? ".bad" : ""}`, {}, number(refused)), el("td.n", {}, number(limit.subjects))));
  fill(table.tBodies[0], shown);
}

const OUTCOMES = [["hit", "k-cache"], ["stale", "k-queue"], ["partial", "k-stream"], ["miss", "k-attempt"], ["bypass", "k-filter"]];

export function cache(place, looks) {
  const { cache: now, currency } = looks.now;
  const all = sum(now.requests);
  if (!all && !sum(now.flights) && !sum(now.idempotency)) {
    fill(place, [], el("p.none", {}, "No request has met a cache."));
    return;
  }
  const parts = OUTCOMES.map(([how, kind]) => [how, kind, now.requests[how] ?? 0]).filter(([, , count]) => count);
  const split = el("div.split", { role: "img", "aria-label": parts.map(([how, , count]) => `${how} ${percent(count / all)}`).join(", ") });
  split.append(...parts.map(([how, kind, count]) => bar(kind, 0, count / all, how)));
  const key = el("ul.legend", {}, ...parts.map(([how, kind, count]) => el("li", {}, el(`i.${kind}`), `${how} ${percent(count / all)}`)));
  const shared = (now.flights.followed ?? 0) + (now.idempotency.replayed ?? 0) + (now.idempotency.joined ?? 0);
  const pairs = [
    ["answers kept", number(now.answers)], ["memory", bytes(now.bytes)], ["tokens spared", number(now.saved_tokens)],
    ["money spared", money(now.saved_cost, currency)], ["answers shared or replayed", number(shared)],
  ];
  const list = el("dl.pairs", {}, ...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  fill(place, all ? [split, key, list] : [list]);
}
