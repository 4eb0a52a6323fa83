// What a key's limits mean for one request: its rate at the edge, the length of its replies, and the tokens of its day. Owns the order: the rate before the
// body is read, the tokens once prompt and lengths are known and before the orchestrator is asked. What was set aside and not used is given back when the
// reply has ended, however it ends: said, failed, or left by its reader. A key without limits passes through untouched.

import { waitUntil } from "cloudflare:workers";
import type { TokenBudget } from "../durable/budget.ts";
import { jurisdictionOf, withinJurisdiction } from "../durable/places.ts";
import type { Caller } from "./auth.ts";
import { badConfiguration, RequestError } from "./errors.ts";
import { EDGE_LIMITS } from "./limits.ts";
import type { Reply } from "./reply-form.ts";
import type { ReplyStart } from "./reply-start.ts";
import { meterOf } from "./admission-meter.ts";

export interface AdmissionSettings {
  /** Counts EDGE_LIMITS.requestsPerMinute units a minute (wrangler.toml). */
  readonly RATE_LIMITER?: RateLimit;
  readonly BUDGETS: DurableObjectNamespace<TokenBudget>;
  readonly JURISDICTION?: string;
}

const RATE_SECONDS = 60;

/** Counts one request; throws a RequestError 429 where the key has had its requests of the minute. */
export async function requireRate({ account, limits: { requestsPerMinute } }: Caller, { RATE_LIMITER: limiter }: AdmissionSettings): Promise<void> {
  if (requestsPerMinute === null) return;
  if (limiter === undefined) throw badConfiguration("The variable KEY_SETTINGS has `requestsPerMinute`, but there is no rate limit binding RATE_LIMITER; see docs/deploy.md.");
  // The binding has one limit for all keys, so each request weighs what its key's share of it makes it weigh.
  const { success } = await limiter.limit({ key: account, delta: Math.ceil(EDGE_LIMITS.requestsPerMinute / requestsPerMinute) });
  if (success) return;
  throw new RequestError({
    status: 429, type: "rate_limit_error", code: "rate_limit_exceeded", retryAfterSeconds: RATE_SECONDS - (Math.floor(Date.now() / 1000) % RATE_SECONDS),
    message: `This key may send ${requestsPerMinute} requests a minute, and has.`,
  });
}

/** The reply with its generations as the orchestrator is asked for them: whose turn they take, how long from now on (null: any time), and no longer than the key's replies may be. */
export function planned(reply: Reply, caller: Caller, deadlineMs: number | null): Reply {
  const most = caller.limits.maxTokens ?? Infinity;
  const deadline = deadlineMs === null ? {} : { deadlineAtMs: Date.now() + deadlineMs };
  return {
    ...reply,
    choices: reply.choices.map(({ input, ...choice }) => ({
      ...choice, input: { ...input, request: { ...input.request, maxTokens: Math.min(input.request.maxTokens, most), caller: caller.account, ...deadline } },
    })),
  };
}

/**
 * Answers with `run`, which calls `onLeave` when the reader has gone, within the tokens of the caller's day; throws a RequestError 429 where they do not last.
 * What earlier requests of the same reply have used is not counted again.
 */
export async function withinBudget(reply: Reply, { resumable }: ReplyStart, caller: Caller, settings: AdmissionSettings, run: (reply: Reply, onLeave: () => void) => Promise<Response>): Promise<Response> {
  const { tokensPerDay, maxTokens } = caller.limits;
  // Replies are shortened and not refused, so a reader is told where they end.
  const shortened = maxTokens === null ? {} : { "X-Max-Tokens": String(maxTokens) };
  if (tokensPerDay === null) return withHeaders(await run(reply, () => {}), shortened);
  const meter = meterOf(reply);
  const left = await setAside({ mostTokens: meter.mostTokens, ended: meter.ended, replyName: resumable?.name }, { caller, tokensPerDay }, settings);
  try {
    return withHeaders(await run(meter.reply, meter.end), { ...shortened, ...left });
  } catch (cause) {
    meter.end();
    throw cause;
  }
}

/** The same for work that is no reply: it says itself, as it goes on, how many tokens it has used. */
export async function withinTokens(mostTokens: number, caller: Caller, settings: AdmissionSettings, run: (use: (nTokens: number) => void) => Promise<Response>): Promise<Response> {
  const { tokensPerDay } = caller.limits;
  if (tokensPerDay === null) return run(() => {});
  let usedTokens = 0;
  let end!: () => void;
  const ended = new Promise<number>((resolve) => { end = () => resolve(usedTokens); });
  const left = await setAside({ mostTokens, ended }, { caller, tokensPerDay }, settings);
  try {
    return withHeaders(await run((nTokens) => { usedTokens += nTokens; }), left);
  } finally {
    end();
  }
}

interface Work {
  readonly mostTokens: number;
  /** Tokens used, once it has ended. */
  readonly ended: Promise<number>;
  /** Under which other requests may continue it. */
  readonly replyName?: string | undefined;
}

/** Sets tokens of the day aside until it is known how many were used; gives the headers that say what is left. */
async function setAside({ mostTokens, ended, replyName }: Work, { caller, tokensPerDay }: { readonly caller: Caller; readonly tokensPerDay: number }, settings: AdmissionSettings): Promise<Readonly<Record<string, string>>> {
  const name = crypto.randomUUID();
  const budgets = withinJurisdiction(settings.BUDGETS, jurisdictionOf(settings));
  const budget = <T>(call: (stub: DurableObjectStub<TokenBudget>) => Promise<T>): Promise<T> => repeated(() => call(budgets.getByName(caller.account)));
  const { granted, newTokens, remainingTokens, resetsAtMs } = await budget(async (stub) => stub.reserve(name, mostTokens, tokensPerDay, replyName));
  const resetSeconds = Math.max(1, Math.ceil((resetsAtMs - Date.now()) / 1000));
  if (!granted) {
    throw new RequestError({
      status: 429, type: "insufficient_quota", code: "insufficient_quota", retryAfterSeconds: resetSeconds,
      message: `This key may use ${tokensPerDay} tokens a day, of which ${remainingTokens} are left; this request may need ${newTokens}${newTokens < mostTokens ? " more than its reply has used" : ""}, its prompt and the longest reply it allows. The next day begins ${new Date(resetsAtMs).toISOString()}.`,
    });
  }
  // From now on, so that a reader who leaves does not end the count with its request.
  waitUntil(ended.then((usedTokens) => budget(async (stub) => stub.settle(name, usedTokens))));
  return { "X-RateLimit-Limit-Tokens": String(tokensPerDay), "X-RateLimit-Remaining-Tokens": String(remainingTokens), "X-RateLimit-Reset-Tokens": `${resetSeconds}s` };
}

function withHeaders(response: Response, headers: Readonly<Record<string, string>>): Response {
  for (const [name, value] of Object.entries(headers)) response.headers.set(name, value);
  return response;
}

/** Calls an object again that was reset or moved under the call. */
async function repeated<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (cause) {
      if (attempt < EDGE_LIMITS.budgetAttempts) continue;
      throw new RequestError({ status: 503, code: "budget_unavailable", retryAfterSeconds: 1, message: `The tokens of this key could not be counted: ${cause instanceof Error ? cause.message : String(cause)}` });
    }
  }
}
