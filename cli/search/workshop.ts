// Models that a search makes, in a folder of its own: one for every beginning of a candidate, under a hash of the model it began with, the passes so far and the texts they read.
// So candidates share what they have in common, and a search that was stopped finds what it had made. Each pass is run as its own command line, in a process of its own:
// what the search measures is what a user gets who types it. Owns the folder, its names, and those lines. Refuses to know passes.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writePack } from "../../formats/pack-writer.ts";
import type { Candidate, PassCall } from "../../passes/search-space.ts";
import { FolderSink, lockFile } from "../file-source.ts";
import { openCheckpoint } from "../open-model.ts";
import { ROOT } from "../setup.mjs";

/** Passes that write rules for later ones, and no model. */
const PLANNERS: readonly string[] = ["bits"];

/** What a candidate's passes have come to. */
export interface Made {
  /** Hash of all that decides it. */
  readonly key: string;
  readonly model: string;
  /** File of rules that "$plan" stands for. */
  readonly plan: string | null;
}

export interface WorkshopOptions {
  readonly folder: string;
  readonly model: string;
  /** Of the model: Checkpoint.fingerprint(). */
  readonly fingerprint: string;
  /** The calibration text, and its SHA-256. */
  readonly text: string;
  readonly textSha256: string;
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false);

export class Workshop {
  readonly #options: WorkshopOptions;
  /** Passes that were run, and that were found made. */
  runs = 0;
  reused = 0;

  #isOpen = false;

  constructor(options: WorkshopOptions) {
    this.#options = options;
  }

  /** Runs those passes of a candidate that nobody has run yet. Throws the sentence of a pass that fails. */
  async make(calls: Candidate): Promise<Made> {
    const { folder, model, fingerprint, textSha256 } = this.#options;
    await this.#open();
    let made: Made = { key: sha256(fingerprint).slice(0, 16), model, plan: null };
    for (const call of calls) {
      const key = sha256(JSON.stringify([made.key, call, Object.values(call.options).includes("$text") ? textSha256 : null])).slice(0, 16);
      const isPlanner = PLANNERS.includes(call.pass);
      const out = join(folder, isPlanner ? `${key}.plan` : key);
      if (await exists(out)) this.reused++;
      else {
        // Under a name of this process until it is whole: what a killed search has left running writes elsewhere.
        const partial = join(folder, `${process.pid}-${key}`);
        await rm(partial, { recursive: true, force: true });
        await runPass(["compress", call.pass, made.model, ...await this.#args(call, made.plan), "--no-report", "--json", "--out", partial]);
        await rename(partial, out);
        this.runs++;
      }
      made = isPlanner ? { ...made, key, plan: out } : { ...made, key, model: out };
    }
    return made;
  }

  /** The pack that would be served of it: formats as the passes left them. */
  async pack({ key, model }: Made): Promise<string> {
    const out = this.packFolder(key);
    if (await exists(out)) return out;
    const sink = await FolderSink.create(out, { fresh: true });
    try {
      await writePack(await openCheckpoint(model), sink, { id: "candidate", quant: "source", parts: "r2" });
    } finally {
      await sink.release();
    }
    return out;
  }

  packFolder(key: string): string { return join(this.#options.folder, `${key}.pack`); }

  /** A JSON document kept under a candidate's key; null where there is none. */
  async read(key: string, name: string): Promise<unknown> {
    const text = await readFile(this.#file(key, name), "utf8").catch(() => null);
    return text === null ? null : JSON.parse(text);
  }

  async keep(key: string, name: string, document: object): Promise<void> {
    await writeFile(`${this.#file(key, name)}.partial`, JSON.stringify(document));
    await rename(`${this.#file(key, name)}.partial`, this.#file(key, name));
  }

  async discardPack(key: string): Promise<void> { await rm(this.packFolder(key), { recursive: true, force: true }); }

  async remove(): Promise<void> { await rm(this.#options.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }); }

  /** The folder is there from the first candidate on; two searches do not share it. */
  async #open(): Promise<void> {
    if (this.#isOpen) return;
    const { folder } = this.#options;
    await mkdir(folder, { recursive: true });
    await lockFile(join(folder, "lock"), folder);
    this.#isOpen = true;
  }

  #file(key: string, name: string): string { return join(this.#options.folder, `${key}.${name}.json`); }

  async #args({ options }: PassCall, plan: string | null): Promise<string[]> {
    const rules = plan === null ? "" : await readFile(plan, "utf8");
    return optionArgs(options, (value) => (value === "$text" ? this.#options.text : value.replace("$plan", () => rules)));
  }
}

/** Options as a command line has them. */
export const optionArgs = (options: PassCall["options"], valueOf: (value: string) => string): string[] =>
  Object.entries(options).flatMap(([name, value]) => (value === true ? [`--${name}`] : value === false ? [] : [`--${name}`, valueOf(String(value))]));

/** One command of ours in a process of its own, which ends with this one. */
async function runPass(args: readonly string[]): Promise<void> {
  const stop = new AbortController();
  const stopped = (signal: NodeJS.Signals): void => stop.abort(signal);
  process.once("SIGINT", stopped).once("SIGTERM", stopped);
  try {
    await new Promise<void>((resolve, reject) => {
      execFile(process.execPath, [join(ROOT, "bin/workers-moe.js"), ...args], { signal: stop.signal, maxBuffer: 256 * 1024 * 1024 }, (error, stdout, stderr) => {
        if (error === null) resolve();
        else if (stop.signal.aborted) reject(new SearchStopped(`The search was stopped by ${String(stop.signal.reason)}: the same command goes on from what it has made.`));
        else reject(new Error(saidOf(stdout) ?? (stderr.trim() === "" ? error.message : stderr.trim())));
      });
    });
  } finally {
    process.off("SIGINT", stopped).off("SIGTERM", stopped);
  }
}

/** A signal, not a pass that failed. */
export class SearchStopped extends Error {
  override readonly name = "SearchStopped";
}

function saidOf(stdout: string): string | null {
  try {
    return (JSON.parse(stdout) as { error?: { message?: string } }).error?.message ?? null;
  } catch {
    return null;
  }
}

const SAFE = /^[\w@%+=:,./-]+$/;
const quoted = (text: string): string => (SAFE.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The command lines that make a candidate and its pack, in folders that begin with `name`. */
export function commandLines(calls: Candidate, { model, text }: Pick<WorkshopOptions, "model" | "text">, name: string): string[] {
  const lines: string[] = [];
  let [at, plan] = [model, ""];
  const last = calls.findLastIndex(({ pass }) => !PLANNERS.includes(pass));
  for (const [i, { pass, options }] of calls.entries()) {
    const isPlanner = PLANNERS.includes(pass);
    const out = isPlanner ? `${name}-plan-${i + 1}.txt` : i === last ? name : `${name}-step-${i + 1}`;
    const args = Object.entries(options).flatMap(([key, value]) => {
      if (value === true) return [`--${key}`];
      if (value === false) return [];
      if (value === "$text") return [`--${key}`, quoted(text)];
      const words = String(value);
      // The only value the shell is to expand.
      return [`--${key}`, words.includes("$plan") ? `"${words.replaceAll(/["\\`]/g, "\\$&").replace("$plan", () => `$(cat ${quoted(plan)})`)}"` : quoted(words)];
    });
    lines.push(["workers-moe compress", pass, quoted(at), ...args, "--out", quoted(out)].join(" "));
    if (isPlanner) plan = out;
    else at = out;
  }
  return [...lines, `workers-moe pack ${quoted(at)} --out ${quoted(`${name}-pack`)}`];
}
