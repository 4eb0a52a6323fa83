// Tools on the page: asked for in a chat only, checked as they are typed, sent as the API wants them; a call of the model is answered by hand and the
// conversation goes on. Against a served model that writes calls, or a scripted answer where the model's own words would be chance.

import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { pinnedNode, ROOT } from "../../cli/setup.mjs";
import { writeChatPack } from "../support/serve.ts";
import { hasBrowser, set, stage, type Stage, visit, type Visit } from "./browser.ts";

interface Said {
  readonly role: string;
  readonly content: string | null;
  readonly tool_calls?: readonly { readonly id: string; readonly type: string; readonly function: { readonly name: string; readonly arguments: string } }[];
  readonly tool_call_id?: string;
}

describe.skipIf(!hasBrowser)("tools", () => {
  let here: Stage;
  let there: Visit;
  let page: Page;
  beforeAll(async () => {
    here = await stage(writeChatPack());
  });
  afterAll(() => here?.end());

  /** A page in a chat, as a newcomer finds it, with its settings open. */
  const fresh = async (): Promise<void> => {
    await page?.context().close();
    there = await visit(here.browser, here.server.url, { permissions: ["clipboard-read", "clipboard-write"] });
    page = there.page;
    await set(page, "max-tokens", "300");
    await set(page, "seed", "4");
    await page.check("input[name=mode][value=chat]", { force: true });
    await page.click("#settings summary");
  };
  const send = async (text: string): Promise<void> => {
    await page.fill("#prompt", text);
    await page.click("#send");
  };
  const idle = (): Promise<unknown> => page.waitForSelector("#send:not([hidden])");
  const messages = (at = -1): readonly Said[] => there.sent.at(at)!.body["messages"] as readonly Said[];
  const settled = async (): Promise<void> => {
    await page.waitForFunction(() => document.querySelector("#send")?.checkVisibility() === true && document.querySelector(".results, #problem:not([hidden])") !== null);
  };
  /** Streams one delta per entry; the last one's finish reason is `finish`. */
  const scripted = (deltas: readonly object[], finish: string): string => [
    ...deltas.map((delta) => ({ choices: [{ index: 0, delta, logprobs: null, finish_reason: null }] })), { choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: finish }] },
  ].map((chunk, i) => `id: ${i}\ndata: ${JSON.stringify(chunk)}\n\n`).join("") + "data: [DONE]\n\n";
  const call = (index: number, name: string, given: string): object => ({ tool_calls: [{ index, id: `c${index}`, type: "function", function: { name, arguments: given } }] });

  it("are offered in a chat only, and sent only there", async () => {
    await fresh();
    expect(await page.isVisible("#tools")).toBe(true);
    await set(page, "tools", "no JSON, and nobody's business in a completion");
    await page.check("input[name=mode][value=completion]", { force: true });
    expect(await page.isVisible("#tools")).toBe(false);
    await set(page, "max-tokens", "2");
    await send("abc");
    await page.waitForSelector(".facts");
    expect(Object.keys(there.sent.at(-1)!.body)).not.toContain("tools");
    expect(await page.isHidden("#problem")).toBe(true);
  });

  it("are checked as they are typed, and not sent while they are wrong", async () => {
    await fresh();
    for (const [text, sentence] of [
      ["[{", /^The tools are not JSON: .+\.$/],
      ["{\"type\": \"function\"}", "The tools are an object; expected an array such as [{\"type\": \"function\", \"function\": {\"name\": \"…\"}}]."],
      ["[7]", "Tool 1 is 7; expected an object {\"type\": \"function\", \"function\": {\"name\": \"…\"}}."],
      ["[{\"type\": \"web_search\"}]", "The type of tool 1 is \"web_search\"; expected \"function\"."],
      ["[{\"type\": \"function\", \"function\": null}]", "The function of tool 1 is null; expected an object with a name."],
      ["[{\"type\": \"function\", \"function\": {\"name\": \"\"}}]", "The name of tool 1 is \"\"; expected a text of at least one letter."],
      ["[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": []}}]", "The parameters of the tool \"f\" are an array; expected a JSON schema as an object."],
    ] as const) {
      await page.fill("#tools", text);
      expect(await page.textContent("#tools-problem")).toMatch(sentence);
      expect(await page.getAttribute("#tools", "aria-invalid")).toBe("true");
    }
    const nSent = there.sent.length;
    await send("hello");
    expect(await page.textContent("#problem")).toBe("The parameters of the tool \"f\" are an array; expected a JSON schema as an object.");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("tools");
    expect(await page.inputValue("#prompt")).toBe("hello");
    expect(there.sent.length).toBe(nSent);
    await page.fill("#tools", "  ");
    expect(await page.isHidden("#tools-problem")).toBe(true);
    expect(await page.getAttribute("#tools", "aria-invalid")).toBe("false");
  });

  it("so is the schema of an answer", async () => {
    await fresh();
    await page.selectOption("#shape", "json_schema");
    expect(await page.isHidden("#shape-problem")).toBe(true);
    await page.fill("#shape-text", "[1]");
    expect(await page.textContent("#shape-problem")).toBe("The schema is an array; expected an object such as {\"type\": \"object\", \"properties\": {…}}.");
    await page.selectOption("#shape", "grammar");
    expect(await page.isHidden("#shape-problem")).toBe(true);
    await page.fill("#shape-text", " ");
    expect(await page.textContent("#shape-problem")).toBe("The grammar is empty; expected rules, the first of them called root.");
    await page.selectOption("#shape", "");
    expect(await page.isHidden("#shape-problem")).toBe(true);
  });

  it("have an example; a call of it is answered by hand, and the model goes on", async () => {
    await fresh();
    await page.fill("#tools", "[{");
    await page.click("#tools-example");
    expect(await page.isHidden("#tools-problem")).toBe(true);
    await page.selectOption("#tool-choice", "one");
    await send("What is the weather?");
    await settled();
    expect(there.sent.at(-1)!.body).toMatchObject({ tools: [{ type: "function", function: { name: "get_weather" } }], tool_choice: "required", parallel_tool_calls: false });
    expect(await page.locator(".results label").allTextContents()).toEqual(["Result of get_weather"]);
    await page.click(".results button");
    expect(await page.textContent(".results [role=alert]")).toBe("The call of get_weather has no result yet; expected some text, such as {\"ok\": true}.");
    expect(await page.evaluate(() => document.activeElement?.closest(".results") !== null)).toBe(true);
    await page.selectOption("#tool-choice", "none");
    await set(page, "max-tokens", "5");
    await page.focus(".results input");
    await page.keyboard.type("19 degrees");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelectorAll(".facts").length === 2);
    await idle();
    const [asked, called, result] = messages();
    expect(asked).toEqual({ role: "user", content: "What is the weather?" });
    expect(called).toMatchObject({ role: "assistant", content: null, tool_calls: [{ type: "function", function: { name: "get_weather" } }] });
    expect(Object.keys(JSON.parse(called!.tool_calls![0]!.function.arguments) as object)).toEqual(["town", "unit"]);
    expect(result).toEqual({ role: "tool", tool_call_id: called!.tool_calls![0]!.id, content: "19 degrees" });
    expect(await page.textContent(".turn.result")).toBe("get_weather → 19 degrees");
    expect(await page.locator(".results").count()).toBe(0);
    // What came of it is part of what is said next.
    await send("And now?");
    await page.waitForFunction(() => document.querySelectorAll(".facts").length === 3);
    expect(messages().map(({ role }) => role)).toEqual(["user", "assistant", "tool", "assistant", "user"]);
  });

  it("called at once are answered at once, in their order; and asked for again where the answer did not come", async () => {
    await fresh();
    const replies = [
      { contentType: "text/event-stream", body: scripted([{ content: "Let me see." }, call(0, "add", "{\"a\":1}"), call(1, "sub", "{}")], "tool_calls") },
      { status: 400, json: { error: { message: "The moon is full." } } },
      { contentType: "text/event-stream", body: scripted([{ content: "Done." }], "stop") },
    ];
    await page.route("**/v1/chat/completions", (route) => route.fulfill(replies.shift()));
    await send("go");
    await settled();
    const inputs = page.locator(".results input");
    expect(await page.locator(".results label").allTextContents()).toEqual(["Result of add, call 1", "Result of sub, call 2"]);
    await inputs.nth(0).fill("one");
    await page.click(".results button"); // the second is missing
    expect(await page.textContent(".results [role=alert]")).toContain("The call of sub has no result yet");
    await inputs.nth(1).fill("two");
    await page.click(".results button");
    await page.waitForSelector("#problem:not([hidden])");
    expect(await page.textContent("#problem")).toBe("The moon is full.");
    await idle();
    expect(await page.locator(".turn.result").count()).toBe(0);
    expect([await inputs.nth(0).inputValue(), await inputs.nth(1).inputValue()]).toEqual(["one", "two"]);
    await page.click(".results button");
    await page.waitForFunction(() => document.querySelectorAll(".turn.assistant[data-end]").length === 2);
    expect(messages()).toEqual(messages(-2));
    expect(messages().slice(1)).toEqual([
      { role: "assistant", content: "Let me see.", tool_calls: [{ id: "c0", type: "function", function: { name: "add", arguments: "{\"a\":1}" } }, { id: "c1", type: "function", function: { name: "sub", arguments: "{}" } }] },
      { role: "tool", tool_call_id: "c0", content: "one" }, { role: "tool", tool_call_id: "c1", content: "two" },
    ]);
  });

  it("whose call was cut off are not answered, and what was refused is back in its box", async () => {
    await fresh();
    const replies = [{ contentType: "text/event-stream", body: scripted([{ content: "Well," }, call(0, "add", "{\"a")], "length") }, { status: 400, json: { error: { message: "Too loud." } } }];
    await page.route("**/v1/chat/completions", (route) => route.fulfill(replies.shift()));
    await send("go");
    await page.waitForSelector(".turn.assistant[data-end]");
    await idle();
    expect(await page.locator(".results").count()).toBe(0);
    await send("HELLO");
    await page.waitForSelector("#problem:not([hidden])");
    await idle();
    expect(messages()).toEqual([{ role: "user", content: "go" }, { role: "assistant", content: "Well," }, { role: "user", content: "HELLO" }]);
    expect(await page.inputValue("#prompt")).toBe("HELLO");
    expect(await page.locator(".turn").count()).toBe(2);
  });

  it("are part of the code to copy, which shows the calls", async () => {
    await fresh();
    await page.click("#tools-example");
    await page.selectOption("#tool-choice", "one");
    await send("What is the weather?");
    await settled();
    const shown = (await page.textContent(".call"))!;
    const codeIn = async (language: string): Promise<string> => {
      await page.click("#show-code");
      await page.check(`input[name=language][value=${language}]`, { force: true });
      const code = (await page.textContent("dialog code"))!;
      await page.keyboard.press("Escape");
      return code;
    };
    expect(await codeIn("curl")).toContain("\"tool_choice\": \"required\"");
    expect(await codeIn("python")).toContain("for call in chunk.choices[0].delta.tool_calls or []:");
    mkdirSync(join(ROOT, "build"), { recursive: true });
    const folder = mkdtempSync(join(ROOT, "build", "page-tools-")); // below the packages, so that `openai` is found
    try {
      writeFileSync(join(folder, "ask.mjs"), await codeIn("node"));
      const { stdout } = await promisify(execFile)(pinnedNode, [join(folder, "ask.mjs")]);
      expect(stdout).toBe(shown.replace("get_weather ", "get_weather"));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
