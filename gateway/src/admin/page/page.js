// The page at /: looks once a second, and shows it.

import { Refused, ask, token } from "/page/api.js";
import { charts, stats } from "/page/charts.js";
import { Looks } from "/page/counts.js";
import { playground } from "/page/playground.js";
import { requests } from "/page/requests.js";
import { since } from "/page/show.js";
import { backends, cache, limits, models } from "/page/tables.js";

const EVERY = 1000;
const MINUTES = 3;

const $ = (id) => document.getElementById(id);
const looks = new Looks((MINUTES * 60000) / EVERY);
let paused = false;

function state(kind, text) {
  const pill = $("state");
  if (pill.textContent === text) return;
  pill.className = `pill ${kind}`;
  pill.textContent = text;
}

function complain(text) {
  $("banner").hidden = !text;
  if ($("banner").textContent !== text) $("banner").textContent = text;
}

/** What went wrong with asking, said where it is seen. */
export function trouble(fault) {
  if (fault instanceof Refused && fault.status === 401) {
    state("warn", "token needed");
    complain(token.get() ? "The gateway does not take this token." : "");
    if (!$("asks").open && !paused) $("asks").showModal();
  } else if (fault instanceof Refused) {
    state("bad", "refused");
    complain(fault.message);
  } else {
    state("bad", "gateway away");
    complain("The gateway does not answer. The numbers below are the last it told; this page goes on trying.");
  }
}

function draw() {
  const live = looks.now;
  document.title = live.ready ? "Tidegate" : "Tidegate (not ready)";
  if (live.draining) state("warn", "draining");
  else state(live.ready ? "good" : "bad", live.ready ? "ready" : "not ready");
  complain(live.ready || live.draining ? "" : live.reason);
  $("facts").textContent = `${live.version} · up ${since(live.uptime_ms)} · configuration ${live.config}`;
  charts($("charts"), looks);
  stats($("stats"), looks);
  models($("models").tBodies[0], looks);
  backends($("pools"), looks);
  limits($("limited"), $("limits"), looks);
  cache($("cache"), looks);
  play.models(Object.keys(live.routes).sort((a, b) => live.routes[b].requests - live.routes[a].requests));
}

async function look() {
  if (!paused && !document.hidden) {
    try {
      looks.add(await ask("/admin/live", { signal: AbortSignal.timeout(5000) }));
      draw();
      await list.look();
    } catch (fault) {
      trouble(fault);
    }
  }
  setTimeout(look, EVERY);
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) state("warn", "paused");
});
$("token").addEventListener("click", () => $("asks").showModal());
$("tokenform").addEventListener("submit", () => {
  token.set($("secret").value.trim());
  $("secret").value = "";
  complain("");
});
$("forget").addEventListener("click", () => {
  token.set("");
  $("asks").close();
});

const list = requests({ list: $("list"), legend: $("legend"), failed: $("failed") });
const play = playground({ show: (id) => list.one(id) });
look();
