// How warm a shard is, in one word, as whoever has the line to it sees it: cold -> loading -> active -> linger -> closed, and from closed on again.
// Owns the words. Refuses to say what lies in the shard's memory while no line is open: only the shard knows (ShardReport, handshake.ts).

import type { LineState } from "./shard-line.ts";

/**
 * `cold`: nothing was asked of it yet. `loading`: a line is being opened, and the shard reads what it has not in memory. `active`: the line is open and there is
 * work. `linger`: it is open without work, for `lingerMs` at most. `closed`: it is at rest after that; the shard forgets, unless it is kept warm, and its cache does not.
 */
export const WARMTHS = ["cold", "loading", "active", "linger", "closed"] as const;
export type Warmth = (typeof WARMTHS)[number];

export function warmthOf({ state, wasOpen }: { readonly state: LineState; readonly wasOpen: boolean }, isWorking: boolean): Warmth {
  switch (state) {
    case "idle": return wasOpen ? "closed" : "cold";
    case "connecting": return "loading";
    case "open": return isWorking ? "active" : "linger";
    case "closed": return "closed";
  }
}
