// Numbers as people read them, and elements without a word of HTML in a string.

/** An element: `el("td.n", { title }, child, child)`. */
export function el(what, attributes = {}, ...children) {
  const [name, ...classes] = what.split(".");
  const made = document.createElement(name);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The same of SVG. */
export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A part of a whole, as the width and place of a bar. The style sheet's rules do not allow it in HTML. */
export function bar(kind, left, width, title) {
  const made = el(`div${kind ? `.${kind}` : ""}`, { title });
  made.style.left = `${100 * left}%`;
  made.style.width = `${100 * width}%`;
  return made;
}

export function number(n) {
  if (n === undefined || n === null || Number.isNaN(n)) return "–";
  const size = Math.abs(n);
  if (size >= 1e9) return `${(n / 1e9).toFixed(1)}G`;
  if (size >= 1e6) return `${(n / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(n / 1e3).toFixed(0)}k`;
  if (size >= 1e3) return `${(n / 1e3).toFixed(1)}k`;
  if (size >= 100 || Number.isInteger(n)) return n.toFixed(0);
  return size >= 10 ? n.toFixed(1) : n.toFixed(size >= 0.095 || size === 0 ? 1 : 2);
}

/** A time in seconds, as [number, unit]. */
export function timed(seconds) {
  if (seconds === undefined || seconds === null) return ["–", ""];
  const ms = seconds * 1000;
  if (ms < 1) return [(ms * 1000).toFixed(0), "µs"];
  if (ms < 10) return [ms.toFixed(1), "ms"];
  if (ms < 1000) return [ms.toFixed(0), "ms"];
  return seconds < 100 ? [seconds.toFixed(seconds < 10 ? 2 : 1), "s"] : [(seconds / 60).toFixed(1), "min"];
}

export const time = (seconds) => timed(seconds).join(" ").trim();
export const millis = (ms) => (ms === undefined ? "–" : time(ms / 1000));
export const percent = (share) => (share === undefined ? "–" : `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);
export const bytes = (n) => (n < 1 << 20 ? `${(n / 1024).toFixed(0)} KiB` : n < 1 << 30 ? `${(n / (1 << 20)).toFixed(1)} MiB` : `${(n / (1 << 30)).toFixed(2)} GiB`);
export const money = (n, currency) => (n > 0 ? `${n < 0.01 ? n.toPrecision(2) : n.toFixed(2)} ${currency}` : "–");

export function since(ms) {
  const seconds = Math.floor(ms / 1000);
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${seconds} s`;
}

/** Puts rows where others were, and leaves alone what has the same text: a reader's place is kept. */
export function fill(parent, rows, none) {
  const wanted = rows.length || !none ? rows : [none];
  wanted.forEach((row, at) => {
    const there = parent.children[at];
    if (!there) parent.append(row);
    else if (!there.isEqualNode(row)) there.replaceWith(row);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}
