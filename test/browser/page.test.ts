// The page in a real headless Chromium, against the real serving stack: it becomes ready, streams coloured tokens, recolours by layer, explains a
// token, stops, chats, and asks nothing of any other origin. Skips with a reason where there is no browser; with CI set that is a failure.

import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { executablePath, hasBrowser, set, stage, type Stage, visit, type Visit } from "./browser.ts";

it.runIf((process.env["CI"] ?? "") !== "")("there is a browser where CI promises one", () => {
  expect(hasBrowser, `no Chromium at ${executablePath}`).toBe(true);
});

describe.skipIf(!hasBrowser)("the page", () => {
  let here: Stage;
  let there: Visit;
  let page: Page;

  beforeAll(async () => {
    here = await stage();
    there = await visit(here.browser, here.server.url);
    page = there.page;
  });
  afterAll(() => here?.end());

  const setting = (id: string, value: string): Promise<void> => set(page, id, value);
  const traced = (): Promise<number> => page.locator(".token:not(.plain)").count();
  const idle = (): Promise<unknown> => page.waitForSelector("#send:not([hidden])");

  it("says what it serves", async () => {
    expect(await page.textContent("#status-text")).toBe("tiny: 8 experts in each of 2 layers, 2 per token. Ready.");
    expect(await page.locator(".expert").count()).toBe(8);
  });

  it("streams a continuation, each token coloured by its experts", async () => {
    await setting("max-tokens", "12");
    await setting("seed", "1");
    await page.fill("#prompt", "abc");
    await page.click("#send");
    await page.waitForFunction(() => document.querySelectorAll(".token:not(.plain)").length === 12);
    await idle();
    expect(await page.textContent(".turn")).toMatch(/^abc/);
    const tints = await page.$$eval(".token", (spans) => spans.map((span) => (span as unknown as { style: { getPropertyValue(name: string): string } }).style.getPropertyValue("--tint")));
    expect(tints.every((tint) => tint.startsWith("oklch("))).toBe(true);
    expect(new Set(tints).size).toBeGreaterThan(1);
  });

  it("recolours the same text by another layer", async () => {
    const look = (): Promise<string[]> => page.$$eval(".token", (spans) => spans.map((span) => span.getAttribute("style") ?? ""));
    const [before, text] = [await look(), await page.textContent(".turn")];
    await setting("layer", "1");
    expect(await look()).not.toEqual(before);
    expect(await page.textContent(".turn")).toBe(text);
    await setting("layer", "0");
    expect(await look()).toEqual(before);
  });

  it("explains the token under the pointer, and the next one by arrow key", async () => {
    await page.hover(".token >> nth=3");
    expect(await page.locator(".token-experts li").count()).toBe(2);
    const values = await page.locator(".token-experts .value").allTextContents();
    const shares = values.map((value) => Number.parseFloat(value));
    expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(100, -1);
    expect(await page.locator(".strip").count()).toBe(2);
    await page.focus("#output");
    await page.keyboard.press("ArrowRight");
    expect(await page.locator(".token").nth(4).getAttribute("class")).toContain("looked");
  });

  it("shows only one expert's tokens when asked", async () => {
    await page.hover(".token >> nth=0");
    const name = await page.locator(".token-experts .name").first().textContent();
    const expert = page.locator(".expert").nth(Number(name!.replace("Expert ", "")));
    await expert.click();
    expect(await page.locator(".token").nth(0).getAttribute("class")).not.toContain("dimmed");
    const dimmed = await page.locator(".token.dimmed").count();
    expect(dimmed).toBeLessThan(await traced());
    expect(await expert.getAttribute("aria-pressed")).toBe("true");
    await expert.click();
    expect(await page.locator(".token.dimmed").count()).toBe(0);
  });

  it("stops when told to", async () => {
    await setting("max-tokens", "4000");
    await page.click("#send");
    await page.waitForFunction(() => document.querySelectorAll(".token:not(.plain)").length > 5);
    await page.click("#stop");
    await idle();
    expect(await traced()).toBeLessThan(3900);
    expect(await page.isHidden("#problem")).toBe(true);
  });

  it("chats, turn after turn", async () => {
    await setting("max-tokens", "8");
    await page.click("text=Chat");
    for (const turn of [1, 2]) {
      await page.fill("#prompt", "hello");
      await page.keyboard.press("Enter");
      await page.waitForFunction((n) => document.querySelectorAll(".turn.assistant").length === n && document.querySelectorAll(".token:not(.plain)").length === 8 * n, turn);
      await idle();
    }
    expect(await page.locator(".turn.user").count()).toBe(2);
  });

  it("folds reasoning away when the answer begins, and shows calls of tools", async () => {
    const delta = (of: object, id: number): string => `data: ${JSON.stringify({ choices: [{ index: 0, delta: of, logprobs: null, finish_reason: null }], moe: { token: { id, experts: [[id], [1]] } } })}\n\n`;
    const body = [
      delta({ reasoning_content: "Two and" }, 2), delta({ reasoning_content: " two." }, 3), delta({ content: "Four" }, 4), delta({ content: "." }, 5),
      delta({ tool_calls: [{ index: 0, id: "call_1", type: "function", function: { name: "add", arguments: "{\"a\":" } }] }, 6), delta({ tool_calls: [{ index: 0, function: { arguments: "2}" } }] }, 7),
      `data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, logprobs: null, finish_reason: "tool_calls" }] })}\n\ndata: [DONE]\n\n`,
    ].join("");
    const asked: { messages: { content: string }[] }[] = [];
    await page.route("**/v1/chat/completions", (route) => {
      asked.push(JSON.parse(route.request().postData()!) as (typeof asked)[number]);
      return route.fulfill({ contentType: "text/event-stream", body });
    });
    await page.click("#clear");
    for (const turn of [0, 1]) {
      await page.fill("#prompt", "2 + 2");
      await page.keyboard.press("Enter");
      await page.waitForFunction((n) => document.querySelectorAll(".turn.assistant[data-end]").length === n + 1, turn);
      await idle();
      const reply = page.locator(".turn.assistant").nth(turn);
      expect(await reply.locator(".reasoning summary").textContent()).toBe("Reasoning");
      expect(await reply.locator(".reasoning").getAttribute("open")).toBeNull();
      expect(await reply.locator(".reasoning div").textContent()).toBe("Two and two.");
      expect(await reply.locator(":scope > .token").allTextContents()).toEqual(["Four", "."]);
      expect(await reply.locator(".call").allTextContents()).toEqual(['add {"a":2}']);
      expect(await reply.locator(".token:not(.plain)").count()).toBe(6);
    }
    expect(asked[1]!.messages.map(({ content }) => content)).toEqual(["2 + 2", "Four.", "2 + 2"]);
    await page.unroute("**/v1/chat/completions");
  });

  it("shows the server's own sentence when something is wrong", async () => {
    await page.click("#clear"); // this model's template takes no calls, and the conversation has some
    await setting("max-tokens", "100000");
    await page.fill("#prompt", "hello");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#problem:not([hidden])");
    expect(await page.textContent("#problem")).toContain("maximum context length is 4096 tokens");
  });

  it("asked nothing of any other origin, and complained of nothing but that refusal", () => {
    expect([...there.origins]).toEqual([here.server.url]);
    expect(there.complaints.filter((text) => !text.includes("400"))).toEqual([]);
  });
});
