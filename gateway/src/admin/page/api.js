// How the page asks: with the admin token, which stays in this tab.

const NAME = "tidegate.token";

export const token = {
  get: () => sessionStorage.getItem(NAME) ?? "",
  set: (text) => (text ? sessionStorage.setItem(NAME, text) : sessionStorage.removeItem(NAME)),
};

/** An answer that says no, with the gateway's own words. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The answer itself, whatever it says. */
export function raw(path, { headers, ...options } = {}) {
  const all = new Headers(headers);
  if (token.get()) all.set("authorization", `Bearer ${token.get()}`);
  return fetch(path, { ...options, headers: all, credentials: "omit", redirect: "error" });
}

/** What a path answers, as JSON; throws `Refused` if it says no. */
export async function ask(path, options) {
  const answer = await raw(path, options);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.detail ?? body.error?.message ?? `${answer.status}`);
  return body;
}
