// One token on the page: its experts with their shards, the frames that took it there with the slowest marked, layer by layer, by pointer, by keys and on a
// phone. Times are scripted, since those of a machine are chance; that the server tells them is looked at once. Works without them too.

import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ask, hasBrowser, set, stage, type Stage, visit } from "./browser.ts";

/** Two layers with experts 4 and 2, then 1 and 6. */
const TRACE = { id: 7, experts: [[4, 2], [1, 6]], weights: [[0.75, 0.25], [0.5, 0.5]] };
const WHERE = { shards: [[0, 3], [null, 1]], frames: [[{ shard: 0, ms: 2.5, bytes: 2048 }, { shard: 3, ms: 12, bytes: 1000 }, { shard: 1, ms: 0, bytes: 10 }], [{ shard: 1, ms: 3, bytes: 512 }]] };

describe.skipIf(!hasBrowser)("one token", () => {
  let here: Stage;
  let page: Page;
  beforeAll(async () => {
    here = await stage();
    page = (await visit(here.browser, here.server.url)).page;
  });
  afterAll(() => here?.end());

  /** A reply of these tokens. */
  const reply = async (on: Page, tokens: readonly object[]): Promise<void> => {
    const chunks = [...tokens.map((token, i) => ({ choices: [{ index: 0, text: ` t${i}`, logprobs: null, finish_reason: null }], moe: { token } })), { choices: [{ index: 0, text: "", logprobs: null, finish_reason: "stop" }] }];
    await on.route("**/v1/completions", (route) => route.fulfill({ contentType: "text/event-stream", body: chunks.map((chunk, i) => `id: ${i}\ndata: ${JSON.stringify(chunk)}\n\n`).join("") + "data: [DONE]\n\n" }));
    await on.fill("#prompt", "abc");
    await on.click("#send");
    await on.waitForSelector(".turn[data-end]");
    await on.unroute("**/v1/completions");
  };
  const experts = (): Promise<string[][]> => page.locator(".token-experts li").evaluateAll((items) => items.map((item) => [".name", ".where", ".value"].map((part) => item.querySelector(part)?.textContent ?? "")));
  const frames = (): Promise<string[]> => page.locator(".frames tbody tr").evaluateAll((rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent).join(" | ")));

  it("tells where its experts live and which frame was slowest", async () => {
    await reply(page, [{ ...TRACE, ...WHERE }]);
    await page.click(".token:not(.plain)");
    expect(await experts()).toEqual([["Expert 4", "shard 0", "75 %"], ["Expert 2", "shard 3", "25 %"]]);
    expect(await frames()).toEqual(["shard 0 | 2.50 ms | 2.0 KiB", "shard 3slowest | 12 ms | 1000 B", "shard 1 | < 1 ms | 10 B"]);
    expect(await page.locator(".strip .wait").allTextContents()).toEqual(["12 ms", "3 ms"]);
    expect(await page.locator(".strip .longest").allTextContents()).toEqual(["12 ms"]);
    await page.click(".strip >> nth=1");
    expect(await page.textContent("#layer-value")).toBe("1");
    expect(await experts()).toEqual([["Expert 1", "orchestrator", "50 %"], ["Expert 6", "shard 1", "50 %"]]);
    expect(await frames()).toEqual(["shard 1 | 3 ms | 512 B"]); // one alone is not the slowest
    await page.click(".strip >> nth=0");
  });

  it("is reached and left by keys: Enter from the text, arrows through the layers", async () => {
    await reply(page, [{ ...TRACE, ...WHERE }, { ...TRACE, ...WHERE, id: 8 }]);
    await page.focus("#output");
    await page.keyboard.press("Enter"); // no token is looked at yet: nothing to go to
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("output");
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("Enter");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("token");
    expect(await page.textContent(".token-name")).toContain("token 8, layer 0");
    await page.keyboard.press("Tab");
    const focused = (): Promise<string> => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? "");
    expect(await focused()).toBe("Layer 0: experts 4, 2; slowest frame 12 ms");
    await page.keyboard.press("ArrowDown");
    expect(await focused()).toBe("Layer 1: experts 1, 6; slowest frame 3 ms");
    expect(await page.textContent("#layer-value")).toBe("1");
    await page.keyboard.press("ArrowDown"); // there is no layer below
    await page.keyboard.press("ArrowUp");
    expect(await focused()).toMatch(/^Layer 0/);
    expect(await page.locator(".strip[tabindex='0']").count()).toBe(1);
  });

  it("marks none of equals, and says where no frame was needed", async () => {
    await reply(page, [{ ...TRACE, shards: [[0, 3], [null, null]], frames: [[{ shard: 0, ms: 1, bytes: 1 }, { shard: 3, ms: 1, bytes: 1 }], []] }]);
    await page.click(".token:not(.plain)");
    expect(await page.locator(".frames tbody tr").count()).toBe(2);
    expect(await page.locator(".slowest").count()).toBe(0);
    await page.click(".strip >> nth=1");
    expect(await page.locator(".frames").count()).toBe(0);
    expect(await page.textContent("#token")).toContain("No frame was sent: the orchestrator has these experts itself.");
    await page.click(".strip >> nth=0");
  });

  it("does without what a server does not tell", async () => {
    await reply(page, [TRACE]);
    await page.click(".token:not(.plain)");
    expect(await experts()).toEqual([["Expert 4", "", "75 %"], ["Expert 2", "", "25 %"]]);
    expect(await page.locator(".frames, .wait").count()).toBe(0);
    expect(await page.locator(".strip").count()).toBe(2);
  });

  it("has its frames from this server", async () => {
    await set(page, "max-tokens", "6");
    await ask(page, "abc");
    await page.locator(".token:not(.plain)").nth(3).click();
    const shards = (await experts()).map(([, where]) => where!);
    expect(shards.every((where) => /^shard [0-3]$/.test(where))).toBe(true);
    const sent = (await frames()).map((row) => /^shard \d/.exec(row)?.[0]);
    for (const shard of shards) expect(sent).toContain(shard);
    expect((await frames()).every((row) => / \| (< 1|[\d.]+) ms \| [\d.]+ (B|KiB|MiB)$/.test(row))).toBe(true);
  });

  it("is one tap away on a phone, and fits", async () => {
    const { page: phone } = await visit(here.browser, here.server.url, { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
    await reply(phone, [{ ...TRACE, ...WHERE }]);
    expect(await phone.isVisible("#token-link")).toBe(false);
    await phone.tap(".token:not(.plain)");
    expect(await phone.textContent("#token-link")).toBe("What ␣t0 is made of ↓");
    await phone.tap("#token-link");
    expect(await phone.evaluate(() => document.activeElement?.id)).toBe("token");
    await phone.waitForFunction(() => document.querySelector(".frames")!.getBoundingClientRect().bottom <= innerHeight);
    expect(await phone.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    await phone.click("#clear");
    expect(await phone.isVisible("#token-link")).toBe(false);
    await phone.context().close();
  });
});
