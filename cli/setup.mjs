// What stands before `npm start`, `npm test` and the other scripts: installs and builds whatever is missing, says what it does, and then
// runs the real command under the pinned Node. Runs on Node 20 with nothing installed, so it imports only `node:*` until packages are there.
// A step is skipped when its inputs have not changed: packages are compared with package-lock.json, builds with a hash in build/stamps/.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, linkSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const at = (...parts) => join(ROOT, ...parts);
const say = (line) => process.stderr.write(`[setup] ${line}\n`);

/** The binary of the pinned Node, which the `node` package puts here. */
export const pinnedNode = at("node_modules", "node", "bin", process.platform === "win32" ? "node.exe" : "node");

/** What differs between package-lock.json and node_modules, as a sentence; null when nothing does. */
export function missingPackages(root) {
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const installedFile = join(root, "node_modules", ".package-lock.json");
  if (!existsSync(installedFile)) return "node_modules is missing";
  const installed = JSON.parse(readFileSync(installedFile, "utf8")).packages;
  for (const [path, wanted] of Object.entries(lock.packages)) {
    if (path === "" || wanted.optional || wanted.devOptional || wanted.peer) continue;
    const found = installed[path]?.version;
    if (found !== wanted.version) return `${path} is ${found ?? "missing"}, package-lock.json wants ${wanted.version}`;
    if (!existsSync(join(root, path))) return `${path} is missing`;
  }
  return null;
}

function installPackages() {
  const reason = missingPackages(ROOT) ?? (existsSync(pinnedNode) ? null : "the pinned Node is missing");
  if (reason === null) return;
  say(`installing packages (npm ci), because ${reason}.`);
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 22 || (major === 22 && minor < 12)) {
    say(`This is Node ${process.versions.node}. npm will warn that some packages want a newer one (EBADENGINE): that is harmless,`);
    say("because a pinned Node 24 is among the packages and runs everything after this step.");
  }
  const done = spawnSync("npm", ["ci", "--no-audit", "--no-fund"], { cwd: ROOT, stdio: "inherit", shell: process.platform === "win32" });
  if (done.status !== 0) fail(`npm ci failed (${done.error?.message ?? `exit code ${done.status}`}). Its own messages are above.`);
  if (!existsSync(pinnedNode)) fail(`npm ci went through, but ${relative(ROOT, pinnedNode)} is missing. Are install scripts switched off (npm config get ignore-scripts)?`);
}

function fail(sentence) {
  say(sentence);
  process.exit(1);
}

/** Every file below the given paths, sorted. */
function filesBelow(paths) {
  const files = [];
  const visit = (path) => {
    if (!existsSync(path)) return;
    if (statSync(path).isDirectory()) for (const name of readdirSync(path).sort()) visit(join(path, name));
    else files.push(path);
  };
  paths.forEach(visit);
  return files;
}

/** SHA-256 (hex) over the names and bytes of all files below the paths. */
export function hashOf(root, paths) {
  const hash = createHash("sha256");
  for (const file of filesBelow(paths.map((path) => join(root, path)))) hash.update(relative(root, file)).update("\0").update(readFileSync(file)).update("\0");
  return hash.digest("hex");
}

/** Runs `build` unless its inputs and its choice are as they were and its outputs are there. The stamp is written last: an interrupted build runs again. */
async function step(name, inputs, outputs, build, choice = "") {
  const stamp = at("build", "stamps", name);
  const wanted = `${hashOf(ROOT, inputs)} ${choice}`;
  if (outputs.every((path) => existsSync(at(path))) && existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  say(`building ${name}`);
  const started = Date.now();
  await build();
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, wanted);
  say(`built ${name} in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

const importOwn = (path) => import(pathToFileURL(at(path)).href);

/** A hard link where the file system allows it, else a copy: packs are tens of megabytes. */
export function linkOrCopy(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  try {
    linkSync(from, to);
  } catch {
    cpSync(from, to);
  }
}

/**
 * Fills `directory` with what the Worker's assets binding serves: the page's files at the top, the packs below packs/<id>/.
 * `packs` maps a pack's id to its folder.
 */
export function assembleAssets(directory, packs) {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  for (const file of filesBelow([at("build", "web")])) linkOrCopy(file, join(directory, relative(at("build", "web"), file)));
  for (const [id, folder] of Object.entries(packs)) {
    for (const file of filesBelow([folder])) linkOrCopy(file, join(directory, "packs", id, relative(folder, file)));
  }
}

/** Kernels, the grammar library and the page: what every use of the repository needs. */
export async function buildProgram() {
  await (await importOwn("cli/build-kernels.mjs")).buildKernels({ log: say }); // keeps its own stamp
  await step("grammar", ["cli/build-grammar.mjs", "node_modules/@mlc-ai/web-xgrammar/package.json"], ["build/xgrammar.mjs", "build/xgrammar.wasm"],
    async () => (await importOwn("cli/build-grammar.mjs")).buildGrammar());
  await step("page", ["web", "cli/build-web.mjs", "node_modules/esbuild/package.json"], ["build/web/index.html"],
    async () => (await importOwn("cli/build-web.mjs")).buildWeb());
}

/** The assets folder of a deployment. */
async function buildAssets() {
  const packs = packsToServe();
  const chosen = Object.entries(packs).map(([id, folder]) => `${id}=${folder}`).join();
  const manifests = Object.values(packs).map((folder) => relative(ROOT, join(folder, "manifest.json")));
  const maps = manifests.map((manifest) => manifest.replace(/manifest\.json$/, "routing-map.json")).filter((map) => existsSync(at(map)));
  await step("assets", ["build/web", "cli/setup.mjs", ...manifests, ...maps], ["build/assets/index.html"], async () => assembleAssets(at("build", "assets"), packs), chosen);
}

/** The packs that go into the assets of a deployment, by id: the demo's, or the one whose folder the variable PACK names. */
function packsToServe() {
  const folder = process.env.PACK ? resolve(process.env.PACK) : at("demo", "pack");
  const manifest = join(folder, "manifest.json");
  if (existsSync(manifest)) return { [JSON.parse(readFileSync(manifest, "utf8")).id]: folder };
  if (process.env.PACK) fail(`PACK names ${folder}, which holds no manifest.json; the folder of a pack was expected.`);
  return {};
}

const TSC = "node_modules/typescript/bin/tsc";
/** What each npm script runs once everything is built, one after the other, by the pinned Node. */
const npmScripts = {
  build: [],
  start: [["bin/workers-moe.js", "serve", "demo/pack", "--port", process.env.PORT || "8787"]],
  test: [["node_modules/vitest/vitest.mjs", "run"]],
  bench: [["bin/workers-moe.js", "bench"]],
  check: [[TSC, "-p", "."], [TSC, "-p", "tsconfig.workers.json"], [TSC, "-p", "web"]],
  deploy: [["node_modules/wrangler/bin/wrangler.js", "deploy"]], // with PACK=<folder>, main() adds that pack's id
};

/** Runs one command with the pinned Node; resolves to its exit code. */
function run(args) {
  const path = `${at("node_modules", ".bin")}${delimiter}${process.env.PATH}`;
  const env = { ...process.env, PATH: path, WRANGLER_SEND_METRICS: "false" };
  const child = spawn(pinnedNode, args, { cwd: ROOT, stdio: "inherit", env });
  const pass = (signal) => {
    // Ctrl-C at a terminal reaches the child by itself; a signal sent to this process alone has to be passed on.
    if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, pass);
  return new Promise((resolve) => child.on("exit", (code, signal) => resolve(code ?? 128 + (constants.signals[signal] ?? 0))));
}

async function main() {
  const [name, ...extra] = process.argv.slice(2);
  if (!(name in npmScripts)) fail(`"${name ?? ""}" is not one of ${Object.keys(npmScripts).join(", ")}.`);
  installPackages();
  await buildProgram();
  await buildAssets();
  const packVar = name === "deploy" && process.env.PACK ? ["--var", `PACK_ID:${Object.keys(packsToServe())[0]}`] : [];
  for (const command of npmScripts[name]) {
    const code = await run([...command, ...packVar, ...extra]);
    if (code !== 0) process.exit(code);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
