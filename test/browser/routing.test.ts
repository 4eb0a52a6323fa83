// The page on the demo model and its routing map: whose experts are whose by domain and language, in colours and in words; divergence as lines and numbers; a profile and clicks as marks, as fields of
// the next request, and in what comes of it; a key that may not steer. Out of scope: what the numbers are (test/node/formats/routing-map.test.ts).

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ROOT } from "../../cli/setup.mjs";
import type { RoutingMap } from "../../formats/routing-map.ts";
import { startServe } from "../support/serve.ts";
import { ask, hasBrowser, set, stage, type Stage, visit, type Visit } from "./browser.ts";

const DEMO = join(ROOT, "demo", "pack");
const map = JSON.parse(readFileSync(join(DEMO, "routing-map.json"), "utf8")) as RoutingMap;
const domains = map.classes.filter(({ kind }) => kind === "domain");
const profile = { format: "workers-moe-profile", version: 1, name: "less-code", description: "Code's experts count nothing.", model: "demo", access: "admin", interventions: [{ op: "suppress", experts: { 2: [13], 3: [9, 29] } }, { op: "mask", experts: { 1: [14] } }], found: null };

describe.skipIf(!hasBrowser)("the routing of the demo", () => {
  let here: Stage;
  let there: Visit;
  let page: Visit["page"];
  beforeAll(async () => {
    here = await stage(Promise.resolve({ folder: DEMO, remove: () => undefined }));
    const stored = await fetch(`${here.server.url}/v1/profiles/less-code`, { method: "PUT", body: JSON.stringify(profile) });
    expect(stored.status, await stored.text()).toBe(200);
    there = await visit(here.browser, here.server.url);
    page = there.page;
    await page.waitForSelector(".views:not([hidden])");
    await set(page, "max-tokens", "8");
    await set(page, "seed", "1");
  });
  afterAll(() => here?.end());

  const show = (view: string): Promise<void> => page.check(`input[name=heat][value=${view}]`, { force: true });
  /** The map's colours in the middle of each cell: [layer][expert]. */
  const painted = (): Promise<string[][]> => page.$eval(".heat", (canvas) => {
    const { width, height } = canvas as HTMLCanvasElement;
    const context = (canvas as HTMLCanvasElement).getContext("2d")!;
    const left = 7 * devicePixelRatio;
    return [0, 1, 2, 3].map((layer) => Array.from({ length: 32 }, (_, expert) => context.getImageData(left + ((expert + 0.5) * (width - left)) / 32, ((layer + 0.5) * height) / 4, 1, 1).data.join()));
  });
  /** Of a cell, without a click. */
  const at = async (layer: number, expert: number): Promise<{ position: { x: number; y: number } }> => {
    const box = (await page.locator(".heat").boundingBox())!;
    return { position: { x: 7 + ((expert + 0.5) * (box.width - 7)) / 32, y: ((layer + 0.5) * box.height) / 4 } };
  };
  const read = async (layer: number, expert: number): Promise<string | null> => {
    await page.hover(".heat", await at(layer, expert));
    return page.textContent(".readout");
  };
  const percent = (share: number): string => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

  it("shows whose expert each is, by domain and by language", async () => {
    await show("domain");
    expect(await page.locator(".classes button").allTextContents()).toEqual(domains.map(({ label }) => label));
    const most = (layer: number, expert: number) => domains.toSorted((a, b) => b.share[layer]![expert]! - a.share[layer]![expert]!);
    for (const [layer, expert] of [[0, 0], [1, 14], [2, 10], [3, 9]] as const) {
      const [first, second] = most(layer, expert);
      expect(await read(layer, expert)).toBe(`Layer ${layer}, expert ${expert}: ${percent(first!.share[layer]![expert]!)} of ${first!.label}, then ${percent(second!.share[layer]![expert]!)} of ${second!.label}`);
    }
    await page.mouse.move(0, 0);
    const byDomain = await painted();
    await show("language");
    expect(await page.locator(".classes button").allTextContents()).toEqual(["en", "fr", "es", "zh"]);
    expect(await painted()).not.toEqual(byDomain);
    await show("reply");
    expect(await page.isHidden(".classes")).toBe(true);
  });

  it("shows one class alone, with shares and ranks, and all again", async () => {
    await show("domain");
    const all = await painted();
    const code = domains.find(({ label }) => label === "code-ts")!;
    await page.click(".classes button:text-is('code-ts')");
    expect(await page.locator(".classes button[aria-pressed=true]").allTextContents()).toEqual(["code-ts"]);
    const row = code.share[3]!;
    const strongest = row.indexOf(Math.max(...row));
    expect(await read(3, strongest)).toBe(`Layer 3, expert ${strongest}: ${percent(row[strongest]!)} of code-ts, rank 1 of 32`);
    await page.mouse.move(0, 0);
    // The fullest cell of a layer is its strongest expert's, and the order of colours that of the shares.
    const alone = await painted();
    const numbers = (cell: string): number[] => cell.split(",").map(Number);
    const palest = alone[3]![row.indexOf(Math.min(...row))]!;
    const fullness = alone[3]!.map((cell) => numbers(cell).reduce((sum, value, i) => sum + Math.abs(value - numbers(palest)[i]!), 0));
    const order = row.map((_, expert) => expert).sort((a, b) => row[b]! - row[a]!);
    for (const [i, expert] of order.slice(1).entries()) expect(fullness[expert]!).toBeLessThanOrEqual(fullness[order[i]!]! + 3);
    expect(fullness[strongest]!).toBeGreaterThan(100);
    expect(alone).not.toEqual(all);
    await page.click(".classes button:text-is('code-ts')");
    await page.mouse.move(0, 0);
    expect(await painted()).toEqual(all);
    await show("reply");
  });

  it("draws divergence as lines, with the numbers below", async () => {
    await show("divergence");
    expect(await page.isHidden("#heat-map")).toBe(true);
    const languages = map.divergence.filter(({ kind }) => kind === "language");
    const rows = (): Promise<string[][]> => page.$$eval(".divergence tbody tr", (found) => found.map((row) => [...row.children].map((cell) => cell.textContent ?? "")));
    expect(await rows()).toEqual(languages.map(({ a, b, layers }) => [`${a} / ${b}`, ...layers.map((value) => value.toFixed(2))]));
    expect(await page.locator(".divergence-lines path").count()).toBe(6);
    await page.selectOption(".divergence select", { label: "code-ts and other domains" });
    expect(await page.locator(".divergence-lines path").count()).toBe(11);
    const [first] = await rows();
    const found = map.divergence.find(({ kind, a, b }) => kind === "domain" && a === "novel" && b === "code-ts")!;
    expect(first).toEqual(["code-ts / novel", ...found.layers.map((value) => value.toFixed(2))]);
    await show("reply");
    expect(await page.isVisible(".heat")).toBe(true);
  });

  it("sends a profile with the next request, and marks its experts", async () => {
    const unmarked = await painted();
    const plain = await ask(page, "function ");
    expect(there.sent.at(-1)!.body["moe"]).toEqual({ trace: true });
    await page.selectOption("#profile", "less-code");
    await page.waitForSelector(".mark-legend li");
    expect(await page.locator(".mark-legend li").allTextContents()).toEqual(["1 masked: not there", "3 suppressed: counts nothing"]);
    expect(await page.textContent("#profile-said")).toBe("Code's experts count nothing.");
    expect(await read(3, 29)).toMatch(/^Layer 3, expert 29: .*; suppressed: counts nothing, by the profile less-code$/);
    await page.mouse.move(0, 0);
    expect((await painted())[1]![14]).not.toBe(unmarked[1]![14]); // the cross goes through the middle
    expect(await ask(page, "function ")).not.toBe(plain);
    expect(there.sent.at(-1)!.body["moe"]).toEqual({ profile: "less-code", trace: true });
    // Nobody took what was masked.
    expect(await read(1, 14)).toBe("Layer 1, expert 14: 0.0 %; masked: not there, by the profile less-code");
    await page.selectOption("#profile", "");
    expect(await page.isHidden(".mark-legend")).toBe(true);
    expect(await ask(page, "function ")).toBe(plain);
  });

  it("steers experts that are clicked, or chosen by keys, and lets them be again", async () => {
    await page.selectOption("#tool", "mask");
    await page.click(".heat", await at(0, 5));
    await page.click(".heat", await at(2, 7));
    await page.selectOption("#tool", "force_max");
    await page.focus(".heat");
    for (let i = 0; i < 4; i++) await page.keyboard.press("ArrowDown");
    for (let i = 0; i < 32; i++) await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Enter");
    expect(await page.locator(".mark-legend li").allTextContents()).toEqual(["2 masked: not there", "1 forced: largest weight"]);
    expect(await page.textContent(".steer-summary")).toBe("The next request goes by 3 clicks. Undo the clicks");
    await ask(page, "function ");
    expect(there.sent.at(-1)!.body["moe"]).toEqual({ interventions: [{ op: "mask", experts: { 0: [5], 2: [7] } }, { op: "force_max", experts: { 3: [0] } }], trace: true });
    // Every token took the one, and none the others.
    expect(await read(3, 0)).not.toContain("0.0 %");
    expect(await read(0, 5)).toContain(": 0.0 %; masked");
    // The code to copy asks for the same.
    await page.click("#show-code");
    expect(await page.textContent("dialog code")).toContain("\"force_max\"");
    await page.keyboard.press("Escape");
    await page.click(".heat", await at(3, 0));
    expect(await page.locator(".mark-legend li").allTextContents()).toEqual(["2 masked: not there"]);
    await page.click(".steer-summary button");
    await ask(page, "function ");
    expect(there.sent.at(-1)!.body["moe"]).toEqual({ trace: true });
    // What a model cannot do the server says.
    await page.selectOption("#tool", "force_max");
    for (const expert of [1, 2, 3, 4, 5]) await page.click(".heat", await at(1, expert));
    await page.fill("#prompt", "function ");
    await page.click("#send");
    await page.waitForSelector("#problem:not([hidden])");
    expect(await page.textContent("#problem")).toMatch(/layer 1/i);
    await page.click(".steer-summary button");
    expect(there.complaints.filter((text) => !text.includes("400"))).toEqual([]);
  });

  it("fits a phone in every view", async () => {
    const { page: phone } = await visit(here.browser, here.server.url, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
    await phone.waitForSelector(".views:not([hidden])");
    await phone.selectOption("#profile", "less-code");
    for (const view of ["reply", "domain", "language", "divergence"]) {
      await phone.check(`input[name=heat][value=${view}]`, { force: true });
      const beyond = await phone.$$eval("#where *", (found) => found.filter((part) => part.checkVisibility() && part.getBoundingClientRect().right > 360.5).map((part) => part.outerHTML.slice(0, 80)));
      expect(beyond, view).toEqual([]);
      expect(await phone.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    }
    await phone.context().close();
  });

  it("says so where the key may not steer, and lists it no profile", async () => {
    const server = await startServe(DEMO, { API_KEYS: "user-key", ADMIN_KEYS: "owner-key" });
    try {
      expect((await fetch(`${server.url}/v1/profiles/less-code`, { method: "PUT", headers: { Authorization: "Bearer owner-key" }, body: JSON.stringify(profile) })).status).toBe(200);
      const other = await (await here.browser.newContext()).newPage();
      await other.addInitScript(() => sessionStorage.setItem("api-key", "user-key"));
      await other.goto(server.url);
      await other.waitForSelector(".views:not([hidden])");
      expect(await other.locator("#profile").count()).toBe(0);
      await other.selectOption("#tool", "suppress");
      await other.click(".heat", { position: { x: 100, y: 20 } });
      await other.fill("#prompt", "function ");
      await other.click("#send");
      await other.waitForSelector("#problem:not([hidden])");
      expect(await other.textContent("#problem")).toContain("This needs a key with the scope \"admin\"");
      await other.context().close();
    } finally {
      await server.stop();
    }
  });
});
