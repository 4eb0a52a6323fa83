// `workers-moe serve --isolate-mib`: the same answers from larger isolates, in every process, and the words that say so; a size that cannot hold the pack is
// refused before anything starts, naming the option.

import { afterAll, beforeAll, expect, it } from "vitest";
import { run, startServe, writeTinyPack } from "../../support/serve.ts";

let pack: { folder: string; remove: () => void };
beforeAll(async () => { pack = await writeTinyPack(); });
afterAll(() => pack?.remove());

interface Fleet { readonly isolate: { readonly limitBytes: number } }

it("lifts the limit of every process, says that this is local, and answers as always", async () => {
  const answer = async (options: readonly string[]): Promise<{ text: string; limitBytes: number; said: string }> => {
    const server = await startServe(pack.folder, {}, ["--shards", "2", ...options]);
    try {
      const response = await fetch(`${server.url}/v1/completions`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model: "tiny", prompt: "abc", max_tokens: 30, temperature: 0 }),
      });
      const { choices } = await response.json() as { choices: { text: string }[] };
      const { isolate } = await (await fetch(`${server.url}/v1/fleet`)).json() as Fleet;
      return { text: choices[0]!.text, limitBytes: isolate.limitBytes, said: server.output() };
    } finally {
      await server.stop();
    }
  };
  const MIB = 2 ** 20;
  const plain = await answer([]);
  expect(plain.limitBytes).toBe(82 * MIB);
  expect(plain.said).not.toContain("on this machine only");
  const lifted = await answer(["--isolate-mib", "3000", "--processes", "2"]);
  expect(lifted.limitBytes).toBe(2992 * MIB);
  expect(lifted.said).toMatch(/^Isolates of 3000 MiB, on this machine only: Cloudflare would allow 82\.0 MiB/m);
  expect(lifted.text).toBe(plain.text);
});

it("refuses a size that does not hold the pack, and one that no WebAssembly memory has", async () => {
  const small = run(["serve", pack.folder, "--isolate-mib", "9"]);
  expect(await small.exit).toBe(1);
  expect(small.output()).toMatch(/The trunk of pack tiny takes .* --isolate-mib 9 leaves 1\.0 MiB .*: --isolate-mib \d+\./);
  const large = run(["serve", pack.folder, "--isolate-mib", "4096"]);
  expect(await large.exit).toBe(2);
  expect(large.output()).toContain("at most 4095: a WebAssembly memory ends at 4 GiB");
});
