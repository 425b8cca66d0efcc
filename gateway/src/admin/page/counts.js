// From what the gateway has counted since its start to what happens now: the difference of two looks.

/** The looks of the last minutes, oldest first. */
export class Looks {
  constructor(most) {
    this.most = most;
    this.all = [];
  }

  /** Adds one. A gateway that was started again has counted anew. */
  add(live) {
    const last = this.all.at(-1);
    if (last && live.uptime_ms < last.uptime_ms) this.all = [];
    if (last && live.uptime_ms === last.uptime_ms) return;
    this.all.push(live);
    if (this.all.length > this.most) this.all.shift();
  }

  get now() {
    return this.all.at(-1);
  }

  /** The look that is `seconds` older than that at `at`, or the oldest. */
  before(seconds, at = this.all.length - 1) {
    const wanted = this.all[at].uptime_ms - 1000 * seconds;
    let found = at;
    while (found > 0 && this.all[found].uptime_ms > wanted) found -= 1;
    return this.all[found];
  }

  /** What came a second, of what `read` reads, over the last `seconds`. */
  rate(read, seconds, at = this.all.length - 1) {
    const [now, old] = [this.all[at], this.before(seconds, at)];
    const passed = (now.uptime_ms - old.uptime_ms) / 1000;
    return passed > 0 ? Math.max(0, read(now) - read(old)) / passed : 0;
  }

  /** How a spread looks for the last `seconds` alone. */
  spread(read, seconds, at = this.all.length - 1) {
    const [now, old] = [read(this.all[at]), read(this.before(seconds, at))];
    return (now?.buckets ?? []).map((count, bucket) => count - (old?.buckets?.[bucket] ?? 0));
  }
}

/** The value that `share` of a spread are not above. */
export function quantile(buckets, share, bounds) {
  const all = buckets.reduce((sum, count) => sum + count, 0);
  if (!all) return undefined;
  let below = 0;
  for (let at = 0; at < buckets.length; at += 1) {
    if (!buckets[at]) continue;
    const low = at ? bounds[at - 1] : 0;
    const high = bounds[at];
    if (high === undefined) return low;
    if (below + buckets[at] >= share * all) return low + (high - low) * Math.max(0, (share * all - below) / buckets[at]);
    below += buckets[at];
  }
  return bounds.at(-1);
}

export const total = (table, read) => Object.values(table).reduce((sum, one) => sum + read(one), 0);
export const sum = (counts) => total(counts ?? {}, (count) => count);

/** The spreads of all routes as one. */
export function together(routes, name) {
  const all = [];
  for (const route of Object.values(routes)) {
    route[name].buckets.forEach((count, at) => (all[at] = (all[at] ?? 0) + count));
  }
  return { buckets: all };
}

/** Failures that are the gateway's or its backends', not its clients'. */
export const OURS = ["gateway", "upstream_error", "upstream_timeout", "upstream_overload"];
export const failed = (route) => OURS.reduce((sum, cause) => sum + (route.failures[cause] ?? 0), 0);
