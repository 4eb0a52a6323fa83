// What Cloudflare charges, in one dated record, and what a deployment's messages, seconds and bytes cost by it.
// Owns the prices and the sums. Refuses free allotments and discounts: figures are what the next token or month costs beyond them.

/** Workers Paid, US dollars, as documented on 2026-11-22 (developers.cloudflare.com: durable-objects/platform/pricing, workers/platform/pricing, r2/pricing). */
export const PRICES = Object.freeze({
  asOf: "2026-11-22",
  workerPerMillionRequests: 0.30,
  /** Requests to Durable Objects: calls, connections, and messages received, of which so many count as one; those sent are free. */
  objectPerMillionRequests: 0.15,
  messagesPerRequest: 20,
  /** An object is billed as 128 MB whatever it uses; there is no charge for CPU time. */
  objectPerMillionGbSeconds: 12.5,
  objectGb: 0.128,
  /** SQLite of Durable Objects; setting an alarm writes a row. */
  objectPerMillionRowsWritten: 1,
  sqlitePerGbMonth: 0.20,
  r2PerGbMonth: 0.015,
});

/** Seconds of a month of 30 days. */
const MONTH_SECONDS = 30 * 86_400;
const GB = 1e9;

/** Between calls that keep an object's memory: it hibernates after 10 s (2026-11). The fleet's own limit (durable/limits.ts, keepWarmMs). */
export const KEEP_WARM_SECONDS = 8;

export const objectSecondsDollars = (seconds: number): number => seconds * PRICES.objectGb * PRICES.objectPerMillionGbSeconds / 1e6;
export const messagesDollars = (messages: number): number => messages / PRICES.messagesPerRequest * PRICES.objectPerMillionRequests / 1e6;

export interface TokenUse {
  /** Messages that objects receive for one token, of shards, stages and replies. */
  readonly messages: number;
  /** Object seconds of the stages: their outgoing sockets keep them awake from the first token to the last. */
  readonly stageSeconds: number;
  /** Object seconds in which shards compute: between messages they may hibernate, which is not billed. */
  readonly shardSeconds: number;
  /** Requests to the front Worker for one token: one over the tokens of a request. */
  readonly workerRequests: number;
}

export interface TokenDollars {
  readonly messages: number;
  readonly stages: number;
  readonly shards: number;
  readonly worker: number;
  readonly total: number;
}

/** Of a million tokens. */
export function dollarsPerMillionTokens(use: TokenUse): TokenDollars {
  const parts = {
    messages: 1e6 * messagesDollars(use.messages), stages: 1e6 * objectSecondsDollars(use.stageSeconds), shards: 1e6 * objectSecondsDollars(use.shardSeconds),
    worker: use.workerRequests * PRICES.workerPerMillionRequests,
  };
  return { ...parts, total: parts.messages + parts.stages + parts.shards + parts.worker };
}

export interface IdleMonthDollars {
  /** The pack in R2. */
  readonly store: number;
  /** Weights in the SQLite of every object that holds some, as the cache beside the store. */
  readonly cache: number;
  /** Store and cache; the account's own monthly fee is apart. */
  readonly total: number;
  /** More, where KEEP_WARM keeps all objects in memory: an alarm in every first stage, and a call for each of the others. That the time between is not billed is documented, not measured (2026-11). */
  readonly keepWarm: number;
  /** More instead, where every object stays awake. */
  readonly awake: number;
}

/** A month of keeping objects in memory (durable/keep-warm.ts): the alarm is a request and a row, a call is a request. An alarm in every object would cost the first for each. */
export const keepWarmDollars = ({ keepers, kept }: { readonly keepers: number; readonly kept: number }): number =>
  MONTH_SECONDS / KEEP_WARM_SECONDS * (keepers * (PRICES.objectPerMillionRequests + PRICES.objectPerMillionRowsWritten) + kept * PRICES.objectPerMillionRequests) / 1e6;

/** Of a month in which nobody asks for anything. */
export function dollarsPerIdleMonth(of: { readonly packBytes: number; readonly cachedBytes: number; readonly objects: number; /** First stages. */ readonly keepers: number; /** Objects they keep, each counted as often as it is called. */ readonly kept: number }): IdleMonthDollars {
  const store = of.packBytes / GB * PRICES.r2PerGbMonth;
  const cache = of.cachedBytes / GB * PRICES.sqlitePerGbMonth;
  return {
    store, cache, total: store + cache, keepWarm: keepWarmDollars(of), awake: of.objects * objectSecondsDollars(MONTH_SECONDS),
  };
}
