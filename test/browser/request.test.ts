// What the page asks and what it says of the answer: every setting reaches the server under the API's name and only where it was set; a reply has the shape
// that was asked for; the facts below it are the server's; and the code to copy, run by a shell, Node and Python, makes the very same request.

import { execFile, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { pinnedNode, ROOT } from "../../cli/setup.mjs";
import { ask, hasBrowser, set, stage, type Stage, visit, type Visit } from "./browser.ts";

const run = promisify(execFile);
const hasPython = spawnSync("python3", ["--version"]).status === 0;
if (hasBrowser && !hasPython) console.warn("The code for Python is not run: there is no python3.");
/** What quoting goes wrong on. */
const AWKWARD = "it's \"so\"\n\\n $HOME `ls` %s 日本 😀 </script>";

describe.skipIf(!hasBrowser)("the request", () => {
  let here: Stage;
  let there: Visit;
  let folder: string;
  beforeAll(async () => {
    here = await stage();
    mkdirSync(join(ROOT, "build"), { recursive: true });
    folder = mkdtempSync(join(ROOT, "build", "page-code-")); // below the packages, so that `openai` is found
  });
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true });
    await here?.end();
  });
  /** Each test begins with the settings of a newcomer, short answers apart. */
  const fresh = async (): Promise<Visit["page"]> => {
    await there?.page.context().close();
    there = await visit(here.browser, here.server.url, { permissions: ["clipboard-read", "clipboard-write"] });
    await set(there.page, "max-tokens", "12");
    return there.page;
  };
  const toChat = (): Promise<void> => there.page.check("input[name=mode][value=chat]", { force: true });
  const lastBody = () => there.sent.at(-1)!.body;

  it("has the temperature and the length of the form, and nothing nobody set", async () => {
    const page = await fresh();
    await ask(page, "abc");
    expect(there.sent.at(-1)).toEqual({
      path: "/v1/completions",
      body: { model: "tiny", prompt: "abc", temperature: 0.7, max_tokens: 12, stream: true, stream_options: { include_usage: true }, moe: { trace: true } },
    });
  });

  it("has every setting under the API's name", async () => {
    const page = await fresh();
    const numbers = { temperature: 1.3, "top-p": 0.9, "top-k": 40, "min-p": 0.05, "repetition-penalty": 1.1, "frequency-penalty": 0.2, "presence-penalty": -0.3, seed: 42 };
    for (const [id, value] of Object.entries(numbers)) await set(page, id, String(value));
    await set(page, "stops", "zzz\n\n\\nEnd");
    await set(page, "system", "  Be brief. ");
    await toChat();
    await ask(page, "hello");
    const { temperature, top_p, top_k, min_p, repetition_penalty, frequency_penalty, presence_penalty, seed, stop, messages } = lastBody();
    expect([temperature, top_p, top_k, min_p, repetition_penalty, frequency_penalty, presence_penalty, seed]).toEqual(Object.values(numbers));
    expect(stop).toEqual(["zzz", "\nEnd"]);
    expect(messages).toEqual([{ role: "system", content: "Be brief." }, { role: "user", content: "hello" }]);
    expect(await page.isHidden("#problem")).toBe(true);
  });

  it("gives an answer in the shape of a schema, and one of a grammar", async () => {
    const page = await fresh();
    await set(page, "max-tokens", "400");
    await toChat();
    await page.selectOption("#shape", "json_schema", { force: true });
    const answer = JSON.parse(await ask(page, "hello")) as { name: string; age: number; likes: string };
    expect(Object.keys(answer)).toEqual(["name", "age", "likes"]);
    expect(Number.isInteger(answer.age)).toBe(true);
    expect(["cats", "tea", "rain"]).toContain(answer.likes);
    expect(lastBody()["response_format"]).toMatchObject({ type: "json_schema", json_schema: { strict: true } });
    await page.selectOption("#shape", "grammar", { force: true });
    await set(page, "shape-text", "root ::= \"a\" [bc] \"d\"");
    expect(await ask(page, "hello")).toMatch(/^a[bc]d$/);
    // Back at the schema, what was written for it is still there.
    await page.selectOption("#shape", "json_schema", { force: true });
    expect(JSON.parse(await page.inputValue("#shape-text"))).toMatchObject({ required: ["name", "age", "likes"] });
  });

  it("is not sent with a schema that is no JSON", async () => {
    const page = await fresh();
    await page.selectOption("#shape", "json_schema", { force: true });
    await set(page, "shape-text", "{\"type\":");
    await page.fill("#prompt", "abc");
    await page.click("#send");
    expect(await page.textContent("#problem")).toMatch(/^The schema is not JSON: /);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("shape-text");
    expect(there.sent).toEqual([]);
  });

  it("is told by the server what is wrong with a number", async () => {
    const page = await fresh();
    await set(page, "top-p", "7");
    await page.fill("#prompt", "abc");
    await page.click("#send");
    await page.waitForSelector("#problem:not([hidden])");
    expect(await page.textContent("#problem")).toBe("`top_p` is not valid: found 7, expected a number above 0 and at most 1.");
  });

  it("is answered with facts: tokens, cache, frames; and a seed that gives the same text again", async () => {
    const page = await fresh();
    await set(page, "temperature", "1.5");
    const prompt = "a long enough beginning to be kept, ".repeat(3);
    const text = await ask(page, prompt);
    const facts = (): Promise<string[]> => page.locator(".facts > *").allTextContents();
    const first = await facts();
    /** Tokens read, and those of them from the cache. */
    const read = (fact: string): number[] => (/^(\d+) tokens read(?: \((\d+) from the cache\))?$/.exec(fact) ?? []).slice(1).map((n) => Number(n ?? 0));
    const [nRead, nCached] = read(first[0]!);
    expect(nRead).toBeGreaterThan(100);
    expect(nCached).toBeLessThan(10); // other requests of these tests begin with the same letter
    expect(first[1]).toBe("12 written");
    expect(first.some((fact) => /^\d+ frames, [\d.]+ (B|KiB|MiB)$/.test(fact))).toBe(true);
    await page.click(".facts button");
    expect(first.at(-1)).toBe(`seed ${await page.inputValue("#seed")}`);
    expect(await ask(page, prompt)).toBe(text);
    expect(read((await facts())[0]!)).toEqual([nRead, nRead! - 1]);
  });

  describe("as code", () => {
    /** Opens the dialog in a language; the code as the clipboard has it. */
    const copied = async (language: string): Promise<string> => {
      const { page } = there;
      await page.click("#show-code");
      await page.check(`input[name=language][value=${language}]`, { force: true });
      await page.click("[data-copy]");
      await page.waitForFunction(() => document.querySelector("dialog [role=status]")?.textContent === "Copied.");
      await page.keyboard.press("Escape");
      expect(await page.isVisible("dialog")).toBe(false);
      return page.evaluate(() => navigator.clipboard.readText());
    };
    /** The page's own text for the request whose code is shown. */
    let text: string;
    const prepare = async (mode: "completion" | "chat"): Promise<void> => {
      const page = await fresh();
      if (mode === "chat") await toChat();
      await set(page, "seed", "3");
      await set(page, "top-k", "50");
      await set(page, "stops", "it's");
      text = await ask(page, AWKWARD);
      // The prompt of a chat is gone from its box: the code is of what was sent.
      expect(await page.inputValue("#prompt")).toBe(mode === "chat" ? "" : AWKWARD);
    };

    it.each(["completion", "chat"] as const)("runs in a shell: %s", async (mode) => {
      await prepare(mode);
      const { stdout } = await run("sh", ["-c", await copied("curl")]);
      const chunks = stdout.split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)) as { choices: { text?: string; delta?: { content?: string } }[] });
      expect(chunks.map(({ choices: [choice] }) => choice?.text ?? choice?.delta?.content ?? "").join("")).toBe(text);
    });

    it.each(["completion", "chat"] as const)("runs in Node with the openai package: %s", async (mode) => {
      await prepare(mode);
      const file = join(folder, "ask.mjs");
      writeFileSync(file, await copied("node"));
      const { stdout } = await run(pinnedNode, [file]);
      expect(stdout).toBe(text);
    });

    it.skipIf(!hasPython).each(["completion", "chat"] as const)("asks the same in Python: %s", async (mode) => {
      await prepare(mode);
      const python = mkdtempSync(join(tmpdir(), "page-python-"));
      // A stand-in for the package, which says what its client was asked.
      writeFileSync(join(python, "openai.py"), `import json
class Recorder:
    def __init__(self, path, client):
        self.path, self.client = path, client
    def __getattr__(self, name):
        return Recorder(self.path + [name], self.client)
    def __call__(self, **asked):
        print(json.dumps({"client": self.client, "method": ".".join(self.path), "asked": asked}))
        return []
def OpenAI(**client):
    return Recorder([], client)
`);
      writeFileSync(join(python, "ask.py"), await copied("python"));
      const { stdout } = await run("python3", [join(python, "ask.py")]);
      rmSync(python, { recursive: true });
      const { client, method, asked: { extra_body, ...asked } } = JSON.parse(stdout) as { client: object; method: string; asked: Record<string, unknown> };
      expect(client).toEqual({ base_url: `${here.server.url}/v1`, api_key: "none" });
      expect(method).toBe(mode === "chat" ? "chat.completions.create" : "completions.create");
      const { stream_options, moe, ...sent } = lastBody();
      expect({ ...asked, ...(extra_body as object) }).toEqual(sent);
      expect(extra_body).toEqual({ top_k: 50 });
    });

    it("never holds a key", async () => {
      await prepare("completion");
      await set(there.page, "key", "sk-secret");
      for (const [language, reads] of [["curl", "$API_KEY"], ["node", "process.env.API_KEY"], ["python", "os.environ[\"API_KEY\"]"]] as const) {
        const code = await copied(language);
        expect(code).toContain(reads);
        expect(code).not.toContain("sk-secret");
      }
    });
  });
});
