// Stored profiles of routing: /v1/profiles, and `moe.profile` and `moe.interventions` of a request on their way to the engine: who may, what a profile brings, and the line of the audit log.
// Owns the order: scope, profile, then the request's own interventions behind the profile's. Refuses profiles of another model, and access: interventions change what a model says, so they need
// the scope admin, but for profiles that say `"access": "infer"`.

import type { z } from "zod";
import { systemClock, within } from "../durable/clock.ts";
import type { Directory } from "../durable/directory.ts";
import { profileDirectory, type DurableEnv } from "../durable/env.ts";
import { LIMITS } from "../durable/limits.ts";
import { plain } from "../durable/rpc-result.ts";
import { eitherMasked, productMaskOf } from "../formats/product-mask-schema.ts";
import { parseProfile, PROFILE_NAME, profileProblem, type profileSchema, type RoutingProfile } from "../formats/routing-profile.ts";
import { type AuditEntry, audit } from "./audit.ts";
import { type Caller, requireScope } from "./auth.ts";
import { badConfiguration, invalid, RequestError } from "./errors.ts";
import type { RequestRecord } from "./log.ts";
import type { EdgePack } from "./pack.ts";
import type { ChatRequest } from "./schemas.ts";
import type { ProfileDeleted, ProfileList, ProfileSummary } from "./wire-types.ts";

function storeOf(env: DurableEnv): DurableObjectStub<Directory> {
  const directory = profileDirectory(env);
  if (directory === null) throw badConfiguration("This deployment has no binding DIRECTORY, so it keeps no profiles; expected one to the class Directory (docs/deploy.md). `moe.interventions` works without.");
  return directory;
}

/** Its answer, or a RequestError 503. */
const asked = async <T>(ask: (store: DurableObjectStub<Directory>) => Promise<unknown>, store: DurableObjectStub<Directory>): Promise<T> => plain<T>(await within(systemClock, LIMITS.directoryMs, (async () => ask(store))(), "the directory, which keeps the profiles, did not answer").catch((cause: unknown) => {
  throw new RequestError({ status: 503, code: "profiles_unreachable", message: `The profiles cannot be reached: ${(cause instanceof Error ? cause.message : String(cause)).replace(/\.$/, "")}.`, retryAfterSeconds: 1 });
}));

const missing = (name: string, param: string | null): RequestError => new RequestError({ status: 404, code: "profile_not_found", param, message: `There is no profile ${JSON.stringify(name.slice(0, 64))}; GET /v1/profiles lists those there are.` });

const mayUse = ({ scopes }: Caller, { access }: RoutingProfile): boolean => access === "infer" || scopes.has("admin");

/** A stored profile. Throws a RequestError 404. */
async function stored(env: DurableEnv, name: string, param: string | null): Promise<RoutingProfile> {
  const text = PROFILE_NAME.test(name) ? await asked<string | null>(async (store) => store.profile(name), storeOf(env)) : null;
  if (text === null) throw missing(name, param);
  return parseProfile(text, `The stored profile "${name}"`);
}

const opsOf = ({ interventions, maskExperts }: Pick<RoutingProfile, "interventions" | "maskExperts">): ProfileSummary["ops"] => [...interventions.map(({ op }) => op), ...(maskExperts == null ? [] : ["mask_experts" as const])];

const summaryOf = ({ name, description, model, packHash = null, access, ...does }: RoutingProfile): ProfileSummary => ({ name, description, model, packHash, access, ops: opsOf(does) });

/** Those the caller may use. */
export async function listProfiles(env: DurableEnv, caller: Caller): Promise<ProfileList> {
  const { texts } = await asked<{ readonly texts: readonly string[] }>(async (store) => store.profiles(), storeOf(env));
  return { object: "list", data: texts.map((text) => parseProfile(text, "A stored profile")).filter((profile) => mayUse(caller, profile)).map(summaryOf) };
}

export async function getProfile(env: DurableEnv, caller: Caller, name: string): Promise<RoutingProfile> {
  const profile = await stored(env, name, null);
  if (!mayUse(caller, profile)) requireScope(caller, "admin");
  return profile;
}

/** Stores a document under its name. Throws a RequestError 400 or 409. */
export async function putProfile(env: DurableEnv, pack: EdgePack, name: string, profile: z.infer<typeof profileSchema>): Promise<ProfileSummary> {
  if (profile.name !== name) throw invalid("name", `\`name\` is ${JSON.stringify(profile.name)}; the path says ${JSON.stringify(name.slice(0, 64))}, expected the same.`, "invalid_value");
  const problem = profileProblem(profile, pack);
  if (problem !== null) throw invalid("interventions", problem, "invalid_value");
  const { interventions, maskExperts } = profile;
  const { length } = JSON.stringify({ interventions, ...(maskExperts == null ? {} : { productMask: productMaskOf(maskExperts) }) });
  if (length > LIMITS.routingChars) throw invalid("interventions", `${maskExperts == null ? "`interventions` take" : "`interventions` and `maskExperts` take"} ${length} characters as JSON; expected at most ${LIMITS.routingChars}.`, "invalid_value");
  const text = JSON.stringify(profile);
  const { length: bytes } = new TextEncoder().encode(text);
  if (bytes > LIMITS.profileBytes) throw invalid(null, `The profile has ${bytes} bytes; expected at most ${LIMITS.profileBytes}.`, "profile_too_large");
  const reply = await asked<{ readonly state: "stored" } | { readonly state: "full"; readonly most: number }>(async (store) => store.putProfile(name, text), storeOf(env));
  if (reply.state === "full") throw new RequestError({ status: 409, code: "too_many_profiles", message: `This deployment keeps ${reply.most} profiles, the most it takes; expected one of their names, or one to be deleted first.` });
  return summaryOf(profile);
}

export async function deleteProfile(env: DurableEnv, name: string): Promise<ProfileDeleted> {
  if (!PROFILE_NAME.test(name) || !(await asked<boolean>(async (store) => store.deleteProfile(name), storeOf(env)))) throw missing(name, null);
  return { name, deleted: true };
}

export interface Steered<Body> {
  readonly body: Body;
  /** What the audit log says of it; null where the request asks for no interventions. */
  readonly use: AuditEntry | null;
}

/** A request with the interventions and masks of its profile among its own. Throws a RequestError 403 where the key may not. */
export async function steered<Body extends { readonly moe?: ChatRequest["moe"] }>(body: Body, pack: EdgePack, caller: Caller, env: DurableEnv): Promise<Steered<Body>> {
  const { interventions: own, profile: name, mask_experts: masked } = body.moe ?? {};
  if (own == null && name == null && masked == null) return { body, use: null };
  if (own != null || masked != null) requireScope(caller, "admin");
  const profile = name == null ? null : await stored(env, name, "moe.profile");
  if (profile !== null && !mayUse(caller, profile)) requireScope(caller, "admin");
  const problem = profile === null ? null : profileProblem(profile, pack);
  if (problem !== null) throw invalid("moe.profile", problem, "invalid_value");
  const interventions = [...(profile?.interventions ?? []), ...(own ?? [])];
  const maskExperts = profile?.maskExperts == null || masked == null ? profile?.maskExperts ?? masked : eitherMasked(profile.maskExperts, masked);
  return { body: { ...body, moe: { ...body.moe, profile: null, interventions, mask_experts: maskExperts } }, use: { action: "use", profile: profile?.name ?? null, ops: opsOf({ interventions, maskExperts }) } };
}

export const auditChange = (record: RequestRecord, caller: Caller, action: "profile_stored" | "profile_deleted", name: string, ops: AuditEntry["ops"] = []): void =>
  audit(record, "/v1/profiles/:name", caller, { action, profile: name, ops });
