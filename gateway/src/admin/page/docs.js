// Shows an OpenAPI document: whatever it says, and nothing that it does not say.

import { raw } from "/page/api.js";
import { el } from "/page/show.js";

const METHODS = ["get", "put", "post", "delete", "patch"];

let whole = {};

/** What a reference stands for. */
function follow(value) {
  if (!value?.$ref) return value ?? {};
  const { $ref, ...more } = value;
  const found = $ref.slice(2).split("/").reduce((at, part) => at?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], whole);
  return { ...follow(found), ...more };
}

/** A text in which some words are the machine's: they stand between backticks. */
const words = (text) => (text ?? "").split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));

const name = (schema) => schema?.$ref?.split("/").at(-1);

function kind(schema) {
  if (!schema || !Object.keys(schema).length) return "anything";
  if (schema.$ref) return name(schema);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  for (const key of ["anyOf", "oneOf"]) if (schema[key]) return schema[key].map(kind).join(" or ");
  if (schema.allOf) return schema.allOf.map(kind).join(" with ");
  const types = [schema.type ?? (schema.properties ? "object" : "anything")].flat();
  return types.map((type) => (type === "array" ? `list of ${kind(schema.items)}` : type === "object" && typeof schema.additionalProperties === "object" ? `${kind(schema.additionalProperties)} by name` : type)).join(" or ");
}

/** All members of a schema: its own and those of what it is made of. */
function members(schema) {
  const seen = follow(schema);
  const parts = (seen.allOf ?? []).map(members);
  return {
    properties: Object.assign({}, ...parts.map((part) => part.properties), seen.properties),
    required: [...parts.flatMap((part) => part.required), ...(seen.required ?? [])],
  };
}

/** The schema that has members, of a schema that may be a list, a table or null. */
function inner(schema) {
  const seen = follow(schema);
  if (seen.items) return inner(seen.items);
  if (typeof seen.additionalProperties === "object") return inner(seen.additionalProperties);
  const choice = (seen.anyOf ?? seen.oneOf ?? []).find((one) => follow(one).type !== "null");
  return choice ? inner(choice) : schema;
}

function tree(schema, above = []) {
  const { properties, required } = members(inner(schema));
  const rows = Object.entries(properties).map(([key, value]) => {
    const about = value.description ?? follow(value).description;
    const line = [el("code", {}, key), " ", el("span.kind", {}, kind(value)), required.includes(key) ? " " : null, about ? el("span.about", {}, " ", ...words(about)) : null];
    const below = inner(value);
    const deeper = Object.keys(members(below).properties).length && !above.includes(name(below) ?? key) && above.length < 6;
    if (!deeper) return el("li", {}, ...line);
    const made = el("details", {}, el("summary", {}, ...line));
    made.addEventListener("toggle", () => made.children.length === 1 && made.append(tree(below, [...above, name(below) ?? key])), { once: true });
    return el("li", {}, made);
  });
  return rows.length ? el("ul.schema", {}, ...rows) : el("p.none", {}, kind(schema));
}

function contents(content) {
  return Object.entries(content ?? {}).flatMap(([type, { schema }]) => [el("p.none", {}, type, schema ? `: ${kind(schema)}` : ""), schema ? tree(schema) : null]);
}

function parameters(all) {
  const rows = all.map((one) => el("tr", {}, el("td", {}, el("code", {}, one.name), one.required ? el("span.must", {}, " needed") : null), el("td", {}, one.in), el("td", {}, kind(one.schema)), el("td", {}, ...words(one.description))));
  const head = el("thead", {}, el("tr", {}, ...["name", "in", "kind", "what it is"].map((text) => el("th", { scope: "col" }, text))));
  return el("div.scroll", { tabindex: 0, role: "region", "aria-label": "Parameters" }, el("table", {}, head, el("tbody", {}, ...rows)));
}

function answers(all) {
  return Object.entries(all).map(([status, answer]) => {
    const seen = follow(answer);
    const level = status >= "500" ? ".bad" : status >= "400" ? ".warn" : "";
    const line = [el(`span.status${level}`, {}, status), ...words(seen.description)];
    const more = [...contents(seen.content), ...heads(seen.headers)];
    if (!more.length) return el("div", {}, ...line);
    const made = el("details", {}, el("summary", {}, ...line));
    made.addEventListener("toggle", () => made.append(...more), { once: true });
    return made;
  });
}

function heads(all) {
  const rows = Object.entries(all ?? {}).map(([key, header]) => el("li", {}, el("code", {}, key), el("span.about", {}, ` ${follow(header).description ?? ""}`)));
  return rows.length ? [el("p.none", {}, "Headers"), el("ul.schema", {}, ...rows)] : [];
}

/** A form that asks: for what can be looked at here, and changes nothing. */
function trial(path, all) {
  const fields = all.filter((one) => one.in !== "header").map((one) => [one, el("input", { name: one.name, autocomplete: "off", ...(one.required ? { required: "" } : {}) })]);
  const shown = el("pre", { tabindex: 0, "aria-label": "The answer", hidden: "" });
  const form = el("form.try", {}, el("div.fields", {}, ...fields.map(([one, input]) => el("label", {}, one.name, input))), el("div.row", {}, el("button.main", { type: "submit" }, "Ask")), shown);
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    let to = path;
    const query = new URLSearchParams();
    for (const [one, input] of fields) {
      if (one.in === "path") to = to.replace(`{${one.name}}`, input.value.split("/").map(encodeURIComponent).join("/"));
      else if (input.value) query.set(one.name, input.value);
    }
    shown.hidden = false;
    try {
      const answer = await raw(`${to}${query.size ? `?${query}` : ""}`);
      const text = await answer.text();
      const isJson = answer.headers.get("content-type")?.includes("json");
      shown.textContent = `${answer.status}\n${isJson ? JSON.stringify(JSON.parse(text), null, 2) : text}`;
      if (answer.status === 401) shown.textContent += "\n\nThe live page (/) asks for the token; it is used here, too.";
    } catch (fault) {
      shown.textContent = `There was no answer: ${fault.message}`;
    }
  });
  return form;
}

function operation(path, method, told, here) {
  const all = (told.parameters ?? []).map(follow);
  const free = Array.isArray(told.security) && !told.security.length;
  const made = el("details.card.operation", { id: told.operationId }, el("summary", {}, el(`span.verb.${method}`, {}, method), el("code.path", {}, path), el("span.says", {}, told.summary), el("span.lock", {}, free ? "open to all" : null)));
  made.addEventListener("toggle", () => {
    const body = el("div.body");
    if (told.description) body.append(el("p", {}, ...words(told.description)));
    if (all.length) body.append(el("h3", {}, "Takes"), parameters(all));
    if (told.requestBody) body.append(el("h3", {}, "Body"), ...contents(told.requestBody.content).filter(Boolean));
    body.append(el("h3", {}, "Answers"), el("div.answers", {}, ...answers(told.responses)));
    if (here && method === "get" && !path.includes("playground")) body.append(el("h3", {}, "Try it"), trial(path, all));
    made.append(body);
  }, { once: true });
  return made;
}

async function show(from) {
  whole = await (await raw(from)).json();
  const here = from.startsWith("/admin");
  const of = new Map(whole.tags.map((tag) => [tag.name, []]));
  for (const [path, methods] of Object.entries(whole.paths)) {
    for (const method of METHODS) if (methods[method]) of.get(methods[method].tags[0]).push([path, method, methods[method]]);
  }
  const link = ([path, method, told]) => {
    const made = el("a", { href: `#${told.operationId}` }, el(`span.verb.${method}`, {}, method), el("span", {}, path));
    made.addEventListener("click", () => (document.getElementById(told.operationId).open = true));
    return el("li", {}, made);
  };
  const tags = whole.tags.filter((tag) => of.get(tag.name).length);
  document.getElementById("index").replaceChildren(...tags.flatMap((tag) => [el("h2", {}, tag.name), el("ul", {}, ...of.get(tag.name).map(link))]));
  const intro = el("header.intro", {}, el("h1", {}, `${whole.info.title} ${whole.info.version}`), el("p", {}, ...words(whole.info.description)));
  const sections = tags.map((tag) => el("section", {}, el("h2", {}, tag.name), el("p", {}, ...words(tag.description)), ...of.get(tag.name).map((one) => operation(...one, here))));
  document.getElementById("content").replaceChildren(intro, ...sections);
  document.getElementById("file").href = from;
  document.getElementById("file").textContent = from.slice(1);
  const wanted = document.getElementById(location.hash.slice(1));
  if (wanted) [wanted.open] = [true, wanted.scrollIntoView()];
}

const buttons = [...document.querySelectorAll("[data-document]")];
for (const button of buttons) {
  button.addEventListener("click", () => {
    buttons.forEach((one) => one.setAttribute("aria-pressed", one === button));
    show(button.dataset.document);
  });
}
show(buttons[0].dataset.document);
