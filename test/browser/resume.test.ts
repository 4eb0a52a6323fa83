// Streams that drop, in a real browser: cut in the middle of an event, ended too early, refused for a moment. The page goes on with Last-Event-ID, and its
// text is the one of an undisturbed stream, token by token. What failed for good, and what never began, is said and not tried again.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { breakingProxy, type BreakingProxy } from "./breaking-proxy.ts";
import { ask, hasBrowser, set, stage, type Stage, visit, type Visit } from "./browser.ts";

const N_TOKENS = 40;

describe.skipIf(!hasBrowser)("a stream that drops", () => {
  let here: Stage;
  let proxy: BreakingProxy;
  let there: Visit;
  beforeAll(async () => {
    here = await stage();
    proxy = await breakingProxy(here.server.url);
    there = await visit(here.browser, proxy.url);
    await set(there.page, "max-tokens", String(N_TOKENS));
    await set(there.page, "seed", "7");
    await set(there.page, "temperature", "1.2");
    proxy.shown = (n) => there.page.waitForFunction((nTokens) => [...document.querySelectorAll(".turn")].at(-1)!.querySelectorAll(".token:not(.plain)").length === nTokens, n);
  });
  afterAll(async () => {
    await proxy?.close();
    await here?.end();
  });

  /** Ids and texts of the tokens on the page. */
  const shown = (): Promise<string[]> => there.page.locator(".turn").last().locator(".token:not(.plain)").allTextContents();

  // A chat's first event has its role and no token.
  it.each([["completion", 0], ["chat", 1]])("goes on where it was, without losing or repeating a token: %s", async (mode, nOpening) => {
    const { page } = there;
    await page.check(`input[name=mode][value=${mode}]`, { force: true });
    const whole = await ask(page, "abc");
    const tokens = await shown();
    expect(tokens.length).toBe(N_TOKENS);
    await page.click("#clear");
    proxy.asked.length = 0;
    proxy.script.push({ kind: "cut", afterEvents: 7, shownTokens: 7 - nOpening }, { kind: "status", status: 503 }, { kind: "end", afterEvents: 5 }, { kind: "cut", afterEvents: 0, shownTokens: 12 - nOpening });
    expect(await ask(page, "abc")).toBe(whole);
    expect(await shown()).toEqual(tokens);
    expect(await page.isHidden("#problem")).toBe(true);
    expect(proxy.script).toEqual([]);
    const [first, ...later] = proxy.asked;
    expect(first).toBeNull();
    // 7 events, then 5 more; a cut before the first whole event moves nothing on.
    expect(later.map((id) => Number(id?.split(".").at(-1)))).toEqual([7, 7, 12, 12]);
  });

  it("says what failed for good, and does not ask again", async () => {
    const { page } = there;
    await page.check("input[name=mode][value=completion]", { force: true });
    proxy.asked.length = 0;
    proxy.script.push({ kind: "refuse", afterEvents: 4 });
    await page.fill("#prompt", "abc");
    await page.click("#send");
    await page.waitForSelector("#problem:not([hidden])");
    expect(await page.textContent("#problem")).toBe("The step failed for good.");
    expect(proxy.asked).toEqual([null]);
    expect((await shown()).length).toBe(4);
  });

  it("that never began is not begun twice", async () => {
    const { page } = there;
    proxy.asked.length = 0;
    proxy.script.push({ kind: "cut", afterEvents: 0, shownTokens: 0 });
    await page.fill("#prompt", "abc");
    await page.click("#send");
    await page.waitForSelector("#problem:not([hidden])");
    expect(await page.textContent("#problem")).toBe("The connection broke. Try again.");
    expect(proxy.asked).toEqual([null]);
    expect(await page.isVisible("#send")).toBe(true);
  });

  it("is given up when its reader stops", async () => {
    const { page } = there;
    proxy.asked.length = 0;
    proxy.script.push({ kind: "cut", afterEvents: 3, shownTokens: 3 }, ...Array.from({ length: 5 }, () => ({ kind: "status" as const, status: 503 })));
    await page.fill("#prompt", "abc");
    await page.click("#send");
    await page.waitForFunction(() => document.querySelector("#speed")?.textContent === "The connection broke. Going on…");
    await page.keyboard.press("Escape");
    await page.waitForSelector("#send:not([hidden])");
    expect(await page.isHidden("#problem")).toBe(true);
    expect((await shown()).length).toBe(3);
    proxy.script.length = 0;
  });
});
