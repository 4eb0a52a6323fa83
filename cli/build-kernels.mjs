// Builds the kernels: kernels-as/*.ts plus the generated products -> build/kernels-{simd128,relaxed-i32,relaxed-i16}.wasm, and
// build/kernels-bench.wasm with the loops the benchmark compares with. Runnable, and called by the set-up script.
// Owns the compiler's flags and the link address of each variant. Skips everything when no source changed (by hash).
// Refuses a module that imports more than a memory or whose data leave its share of the reserved first 64 KiB.
// Plain JavaScript and no dependency but assemblyscript: it runs before anything is built.

import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { join } from "node:path";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SOURCES = join(ROOT, "kernels-as");
const BUILD = join(ROOT, "build");

/** Where each module's data lie. Different addresses, so that several modules may share one memory. */
const DATA_BYTES = 4096;
const VARIANTS = [
  { name: "simd128", dataAt: 4096, features: [] },
  { name: "relaxed-i32", dataAt: 8192, features: ["--enable", "relaxed-simd"] },
  { name: "relaxed-i16", dataAt: 12288, features: ["--enable", "relaxed-simd"] },
  { name: "bench", dataAt: 16384, features: ["--enable", "relaxed-simd"] },
];

/** Every source the output depends on, this script included. */
async function readSources() {
  const names = (await readdir(SOURCES)).filter((name) => /\.(ts|mjs)$/.test(name)).sort();
  const files = new Map();
  for (const name of names) files.set(name, await readFile(join(SOURCES, name), "utf8"));
  const compiler = JSON.parse(await readFile(join(ROOT, "node_modules/assemblyscript/package.json"), "utf8")).version;
  const hash = createHash("sha256").update(compiler).update(await readFile(fileURLToPath(import.meta.url)));
  for (const [name, text] of files) hash.update(`\0${name}\0${text}`);
  return { files, hash: hash.digest("hex") };
}

/** [address, end) of the active data segments and the names of the imports, from the module's bytes: the Node that builds may be too old to compile it. */
function inspectModule(bytes) {
  let at = 8;
  const leb = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 127) << shift;
      if (byte < 128) return value >>> 0;
    }
  };
  const name = () => {
    const length = leb();
    at += length;
    return Buffer.from(bytes.subarray(at - length, at)).toString("utf8");
  };
  const data = [];
  const imports = [];
  while (at < bytes.length) {
    const id = bytes[at++];
    const size = leb();
    const end = at + size;
    if (id === 2) {
      for (let n = leb(); n > 0; n--) {
        imports.push(`${name()}.${name()}`);
        if (bytes[at++] !== 2) throw new Error(`A kernel module imports ${imports.at(-1)}, which is no memory.`);
        const hasMaximum = (leb() & 1) === 1;
        leb();
        if (hasMaximum) leb();
      }
    }
    if (id === 11) {
      for (let n = leb(); n > 0; n--) {
        if (leb() !== 0 || bytes[at++] !== 0x41) throw new Error("A kernel module holds a data segment that is not active at a constant address.");
        const address = leb();
        at += 1; // the end of the address expression
        const length = leb();
        data.push([address, address + length]);
        at += length;
      }
    }
    at = end;
  }
  return { data, imports };
}

/** Compiles one variant in `folder` and puts the module in place when it is right. */
async function compile(asc, variant, files, generated, folder) {
  await mkdir(folder, { recursive: true });
  for (const [name, text] of [...files, ...generated]) if (name.endsWith(".ts")) await writeFile(join(folder, name), text);
  const out = join(folder, "kernels.wasm");
  const { error, stderr } = await asc.main([
    generated.size === 0 ? "bench.ts" : "index.ts", "--baseDir", folder, "-o", out, "--runtime", "stub", "--enable", "simd", ...variant.features,
    "--importMemory", "--initialMemory", "1", "--memoryBase", String(variant.dataAt), "--noAssert", "-O3", "--disableWarning", "112",
  ]);
  if (error) throw new Error(`The kernel variant ${variant.name} does not compile: ${error.message}\n${stderr.toString().slice(0, 4000)}`);
  const { data, imports } = inspectModule(await readFile(out));
  if (imports.join() !== "env.memory") throw new Error(`The kernel variant ${variant.name} imports ${imports.join(", ")}; expected env.memory only.`);
  for (const [from, to] of data) {
    if (from < variant.dataAt || to > variant.dataAt + DATA_BYTES) {
      throw new Error(`The kernel variant ${variant.name} has data at ${from}..${to}; expected them within ${variant.dataAt}..${variant.dataAt + DATA_BYTES}.`);
    }
  }
  await rename(out, join(BUILD, `kernels-${variant.name}.wasm`));
}

/** Builds what is missing or stale. Returns true when it built, false when everything was current. */
export async function buildKernels({ log = console.log } = {}) {
  const { files, hash } = await readSources();
  const stampFile = join(BUILD, "kernels.hash");
  const stamp = await readFile(stampFile, "utf8").catch(() => "");
  const present = await readdir(BUILD).catch(() => []);
  if (stamp === hash && VARIANTS.every((v) => present.includes(`kernels-${v.name}.wasm`))) return false;
  log("Building the WebAssembly kernels ...");
  const { default: asc } = await import("assemblyscript/asc");
  const { generateProducts } = await import(pathToFileURL(join(SOURCES, "generate.mjs")).href);
  const { generateAttentionProducts } = await import(pathToFileURL(join(SOURCES, "generate-attention.mjs")).href);
  // A folder of this process alone, and renames at the end: two builds at once do no harm.
  const work = join(BUILD, `kernels-build-${process.pid}`);
  try {
    await mkdir(join(BUILD, "kernels-as"), { recursive: true });
    for (const variant of VARIANTS) {
      const generated = new Map(variant.name === "bench" ? [] : [
        ["products.ts", generateProducts(variant.name)], ["attention-products.ts", generateAttentionProducts(variant.name)],
      ]);
      await compile(asc, variant, files, generated, join(work, variant.name));
      // To be read by people.
      for (const [name, text] of generated) await writeFile(join(BUILD, "kernels-as", name.replace(".ts", `-${variant.name}.ts`)), text);
    }
    await writeFile(stampFile, hash);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return true;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const built = await buildKernels();
  console.log(built ? "Kernels are built." : "Kernels are up to date.");
}
