// Four charts of the last minutes, and a row of numbers.

import { failed, quantile, sum, together, total } from "/page/counts.js";
import { bytes, el, money, number, percent, svg, time, timed } from "/page/show.js";

const [WIDTH, HEIGHT] = [300, 100];

const tokens = (kind) => (live) => total(live.routes, (route) => route.tokens[kind] ?? 0);
const done = (live) => total(live.routes, (route) => route.requests);
const bad = (live) => total(live.routes, failed);
const refused = (live) => total(live.routes, (route) => sum(route.failures)) - bad(live);
const waiting = (live) => total(live.pools, (pool) => pool.queue.waiting);

const first = (share) => (looks, at) => quantile(looks.spread((live) => together(live.routes, "first_token"), 15, at), share, looks.now.bounds.first_token);
const rate = (read) => (looks, at) => looks.rate(read, 4, at);
const level = (read) => (looks, at) => read(looks.all[at]);

const CHARTS = [
  { title: "Requests", unit: "/s", lines: [["all", "c0", rate(done)], ["refused", "c3", rate(refused)], ["failed", "c2", rate(bad)]], big: number },
  { title: "Time to first token", of: "p50, p95 of 15 s", lines: [["p50", "c0", first(0.5)], ["p95", "c1", first(0.95)]], big: null },
  { title: "Tokens", unit: "out/s", lines: [["out", "c0", rate(tokens("output"))], ["in", "c1", rate(tokens("input"))]], big: number },
  { title: "Under way", unit: "requests", lines: [["in flight", "c0", level((live) => live.in_flight)], ["in queues", "c3", level(waiting)]], big: number },
];

/** A line through `values`, the newest at the right edge; where there is none, a gap. */
function path(values, most, slots, close) {
  let d = "";
  let begun = null;
  const x = (at) => (((slots - values.length + at) / (slots - 1)) * WIDTH).toFixed(1);
  values.forEach((value, at) => {
    if (value === undefined) {
      if (close && begun !== null) d += `L${x(at - 1)} ${HEIGHT}Z`;
      begun = null;
      return;
    }
    const point = `${x(at)} ${(HEIGHT - 2 - (value / most) * (HEIGHT - 12)).toFixed(1)}`;
    d += begun === null ? (close ? `M${x(at)} ${HEIGHT}L${point}` : `M${point}`) : `L${point}`;
    begun = at;
  });
  if (close && begun !== null) d += `L${x(values.length - 1)} ${HEIGHT}Z`;
  return d;
}

/** The next round number, so that the scale does not jump about. */
function round(value) {
  if (!(value > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= value);
}

export function charts(place, looks) {
  if (!place.children.length) {
    place.append(...CHARTS.map((chart) => el("article.card.chart", {}, el("h2", {}, chart.title, el("span")), el("p.big"), el("p.keys"), svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }))));
  }
  CHARTS.forEach((chart, at) => draw(place.children[at], chart, looks));
}

function draw(card, chart, looks) {
  const lines = chart.lines.map(([name, colour, read]) => [name, colour, looks.all.map((_, at) => read(looks, at))]);
  const most = round(Math.max(...lines.flatMap(([, , values]) => values.map((value) => value ?? 0))));
  const show = (value) => (chart.big ? chart.big(value) : time(value));
  const [head, big, keys, picture] = card.children;
  const now = lines.map(([name, colour, values]) => [name, colour, values.at(-1)]);
  const [value, unit] = chart.big ? [chart.big(now[0][2]), chart.unit] : timed(now[0][2]);
  big.replaceChildren(value, el("small", {}, unit));
  head.lastChild.textContent = chart.of ?? `up to ${show(most)}`;
  keys.replaceChildren(...now.slice(chart.big ? 1 : 0).map(([name, colour, last]) => el(`span.${colour}`, {}, el("i"), name, el("b", {}, show(last)))));
  picture.setAttribute("aria-label", `${chart.title}: ${now.map(([name, , last]) => `${name} ${show(last)}`).join(", ")}`);
  // A page that was just opened need not be empty for three minutes.
  const slots = Math.max(30, looks.all.length);
  const grid = svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: 10, y2: 10 });
  const drawn = lines.flatMap(([, colour, values], at) => {
    const line = svg("path", { class: `line ${colour}`, d: path(values, most, slots) });
    return at ? [line] : [svg("path", { class: `area ${colour}`, d: path(values, most, slots, true) }), line];
  });
  picture.replaceChildren(grid, ...drawn);
}

export function stats(place, looks) {
  const now = looks.now;
  const over = 30;
  const all = looks.rate(done, over);
  const share = all ? looks.rate(bad, over) / all : undefined;
  const overhead = looks.spread((live) => live.overhead, over);
  const hit = (live) => ["hit", "stale", "partial"].reduce((so, how) => so + (live.cache.requests[how] ?? 0), 0);
  const met = (live) => sum(live.cache.requests) - (live.cache.requests.bypass ?? 0);
  const met30 = looks.rate(met, over);
  const limited = looks.rate((live) => total(live.routes, (route) => route.failures.limit ?? 0), over);
  const rows = [
    ["failed", percent(share), share > 0 ? "bad" : ""],
    ["refused by limits", `${number(limited)} /s`, ""],
    ["cache hits", percent(met30 ? looks.rate(hit, over) / met30 : undefined), ""],
    ["our overhead p50", time(quantile(overhead, 0.5, now.bounds.overhead)), ""],
    ["our overhead p99", time(quantile(overhead, 0.99, now.bounds.overhead)), ""],
    ["connections", number(now.connections), ""],
    ["memory", bytes(now.memory), ""],
    ["processor", percent(looks.rate((live) => live.cpu_seconds, over)), ""],
    ["cost in all", money(total(now.routes, (route) => route.cost), now.currency), ""],
  ];
  place.replaceChildren(...rows.map(([name, value, kind]) => el("div", {}, el("dt", {}, name), el("dd", kind ? { class: kind } : {}, value))));
}
