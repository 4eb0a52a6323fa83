// The fleet view in states that a small deployment hardly reaches, with answers put in the place of a server's (fleet-states.ts) and a clock that tests move:
// a change that waits or was abandoned, regions and lanes, faults, wishes that are refused, and that nothing flickers. views.test.ts has the real server.

import { join } from "node:path";
import type { Browser, BrowserContextOptions, Page, Request } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ROOT } from "../../cli/setup.mjs";
import type { FleetReply } from "../../worker/wire-types.ts";
import { hasBrowser, launch } from "./browser.ts";
import { abandoned, directory, faults, fleetReply, NOW_MS, shard, steady, warming } from "./fleet-states.ts";

const ORIGIN = "http://fleet.test";
type Answer = FleetReply | { readonly status: number; readonly message: string } | null;

interface Shown {
  readonly page: Page;
  /** Questions and wishes, in order. */
  readonly asked: Request[];
  /** What is answered from now on; null breaks the connection. */
  answer: Answer;
  /** Answers that at the next poll, and waits until it is shown. */
  next(answer: Answer): Promise<void>;
  /** What a wish is answered with. */
  wishing: { readonly status: number; readonly message: string } | null;
}

describe.skipIf(!hasBrowser)("the fleet view", () => {
  let browser: Browser;
  beforeAll(async () => void (browser = await launch()));
  afterAll(() => browser?.close());

  async function show(first: Answer, options: BrowserContextOptions = {}): Promise<Shown> {
    const page = await (await browser.newContext({ timezoneId: "UTC", ...options })).newPage();
    const error = (status: number, message: string) => ({ status, json: { error: { message } } });
    const shown: Shown = {
      page, asked: [], answer: first, wishing: null,
      next: async (more) => {
        shown.answer = more;
        // Not of one that was asked for before, and is on its way with the answer of then.
        const before = new Set(shown.asked);
        const isAnswer = (request: Request): boolean => request.url().endsWith("/v1/fleet") && !before.has(request);
        const answered = more === null ? page.waitForEvent("requestfailed", isAnswer) : page.waitForEvent("requestfinished", isAnswer);
        await page.clock.runFor(1000);
        await answered;
        await settled(page);
      },
    };
    page.setDefaultTimeout(20_000);
    // The clock stands, and goes on by a second with each answer.
    await page.clock.install({ time: NOW_MS - 1000 });
    await page.clock.pauseAt(NOW_MS);
    await page.route("**/*", (route) => {
      const { pathname } = new URL(route.request().url());
      if (pathname === "/health") return route.fulfill({ json: { status: "ready" } });
      if (pathname === "/v1/models") return route.fulfill({ json: { data: [{ id: "big", moe: { experts: 8, experts_per_token: 2, moe_layers: [0, 1], context_length: 64, chat: true } }] } });
      if (pathname !== "/v1/fleet") return route.fulfill({ path: join(ROOT, "build", "web", pathname === "/" ? "index.html" : pathname) });
      shown.asked.push(route.request());
      if (route.request().method() === "POST") return route.fulfill(shown.wishing === null ? { status: 202, json: {} } : error(shown.wishing.status, shown.wishing.message));
      const { answer } = shown;
      return answer === null ? route.abort() : typeof answer.status === "number" ? route.fulfill(error(answer.status, answer.message)) : route.fulfill({ json: answer });
    });
    await page.goto(`${ORIGIN}/#fleet`);
    await page.waitForSelector(".fleet-shards h2");
    return shown;
  }
  /** What the page got before is shown after it. */
  const settled = (page: Page): Promise<unknown> => page.evaluate(() => fetch("/health").then((reply) => reply.text()));
  const texts = (page: Page, selector: string): Promise<string[]> => page.locator(selector).allInnerTexts().then((found) => found.map((text) => text.replace(/\s+/g, " ").trim()));
  const column = (page: Page, table: string, name: string): Promise<string[]> => texts(page, `.${table} tbody [data-name='${name}']`);

  it("shows a change under way, and what each shard, lane and region does meanwhile", async () => {
    const { page } = await show(fleetReply({ change: warming, history: [abandoned, steady], faults, plan: { ...directory().plan!, jurisdiction: "eu" } }, [
      shard(0), shard(1, { retries: 2, hedges: 14, warmth: "linger" }), shard(2, { state: "closed", warmth: "closed", lastFault: "no answer in 1840 ms" }),
      shard(3, { state: "connecting", warmth: "loading", loadedBytes: 16 * 1024 ** 2, totalBytes: 64 * 1024 ** 2 }),
    ]));
    expect(await texts(page, ".change-head")).toEqual(["To epoch 9: 6 shards warming 4 → 6 shards · 12 s so far"]);
    expect(await page.locator(".rail li").evaluateAll((steps) => steps.map((step) => `${step.querySelector(".name")!.textContent} ${step.getAttribute("data-is")} ${step.querySelector(".time")!.textContent}`)))
      .toEqual(["planned done 400 ms", "warming now 12 s", "committed todo –", "flipping todo –", "draining todo –", "retired todo –"]);
    expect(await texts(page, ".amounts .hint")).toEqual(["61.5 MiB fetched, 164 MiB planned · 1 call made again · 1 more change to follow"]);
    expect(await texts(page, ".change-message")).toEqual(["2 of 6 shards are not warm: shard 4 is loading."]);
    expect(await texts(page, ".fleet [role=status]")).toContain("Change to epoch 9, 6 shards: warming.");
    expect(await column(page, "shards", "State")).toEqual(["active from other shards and the store in 1.2 s", "linger loaded, nothing to do", "away no answer in 1840 ms", "loading 16.0 MiB of 64.0 MiB"]);
    expect(await column(page, "shards", "Holds")).toEqual(["128 parts 12 elsewhere too", "128 parts no other copies", "128 parts all elsewhere too", "128 parts 4 elsewhere too"]);
    expect(await column(page, "shards", "Memory")).toEqual(Array(4).fill("61.5 MiB of 82.0 MiB"));
    expect((await column(page, "shards", "Retries"))[1]).toBe("2 14 hedges");
    expect(await texts(page, ".fleet-shards h2")).toEqual(["Shards 4 shards, 2 more at rest, within jurisdiction “eu”"]);
    expect(await column(page, "lanes", "Free KV memory")).toEqual([`21\u202f504 tokens 4 s ago`.replace(/\s+/g, " "), "– not reported yet"]);
    expect(await column(page, "lanes", "Epoch")).toEqual(["7", "6 7 is in force"]);
    expect(await column(page, "lanes", "State")).toEqual(["Ready", "Cannot be reached"]);
    expect(await column(page, "trips", "to enam")).toEqual(["84 ms 3 s ago", "79 ms 41 s ago", "–"]);
    expect((await column(page, "faults", "Cause")).length).toBe(7);
    expect((await column(page, "faults", "When"))[0]).toMatch(/^5 s ago 11:59:55/);
    await page.click(".fleet-earlier summary");
    expect(await column(page, "earlier", "Epoch")).toEqual(["8 abandoned", "7"]);
    expect(await column(page, "earlier", "Took")).toEqual(["11 s 3 retries", "40 s"]);
    await page.context().close();
  });

  it("says where and why a change was given up, and shows another region where one is chosen", async () => {
    const { page } = await show(fleetReply({ history: [abandoned, steady] }));
    expect(await texts(page, ".rail [data-is=failed]")).toEqual(["warming 8.5 s given up here"]);
    expect(await page.textContent(".change-message.is-bad")).toBe(abandoned.message);
    expect(await page.locator(".region-choice [aria-pressed=true]").getAttribute("data-region")).toBe("weur");
    await page.locator("[data-region=enam]").focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector("[data-region=enam][aria-pressed=true]");
    expect(await page.evaluate(() => (document.activeElement as HTMLElement).dataset["region"])).toBe("enam");
    expect((await texts(page, ".facts-grid dd"))[0]).toBe("Cannot be reached");
    expect(await page.locator(".change").count()).toBe(0);
    await page.context().close();
  });

  it("changes figures in place: nothing is built anew, jumps, loses the focus or what was typed", async () => {
    const { page, next } = await show(fleetReply({ history: [steady] }));
    await page.evaluate(() => {
      document.querySelectorAll(".fleet :is(tr, td, th, li, h2, svg, path)").forEach((element) => Object.assign(element, { isKept: true }));
    });
    const top = (): Promise<number> => page.$eval(".shards", (table) => table.getBoundingClientRect().top + scrollY);
    const firstTop = await top();
    await page.fill("#wish-replicas", "3");
    const changes: (ReturnType<typeof directory>["change"])[] = [null, { ...warming, message: null }, warming, { ...warming, state: "flipping", message: null, sinceMs: { ...warming.sinceMs, committed: NOW_MS, flipping: NOW_MS } }, null];
    for (const [i, change] of changes.entries()) {
      await next(fleetReply({ change, history: i === changes.length - 1 ? [{ ...steady, epoch: 9 }, steady] : [steady] }, [0, 1, 2, 3].map((number) => shard(number, { frames: 90_000 * (i + 1), retries: i }))));
      expect((await column(page, "shards", "Retries"))[3]).toBe(String(i));
      expect(await top(), `at ${change?.state}`).toBe(firstTop);
    }
    expect(await page.locator(".fleet :is(tr, td, th, li, h2, svg, path)").evaluateAll((all) => all.filter((element) => !("isKept" in element) && element.closest(".fleet-earlier") === null).length)).toBe(0);
    expect(await page.inputValue("#wish-replicas")).toBe("3");
    expect(await page.evaluate(() => document.activeElement!.id)).toBe("wish-replicas");
    await page.context().close();
  });

  it("shows frames per second as the difference of two counts", async () => {
    const at = (frames: number) => fleetReply({}, [shard(0, { frames })]);
    const { page, next } = await show(at(100));
    const load = (): Promise<string | null> => page.textContent(".shards [data-name=Load] .value");
    expect(await load()).toBe("0 frames/s");
    for (const [frames, perSecond] of [[600, 500], [600, 0], [850, 250], [40, 40]] as const) { // a line opened anew counts from nothing
      await next(at(frames));
      expect(await load()).toBe(`${perSecond} frames/s`);
    }
    expect(await page.getAttribute(".load-line path", "d")).toBe("M55 19.0L56 1.0L57 19.0L58 10.0L59 17.6");
    await page.context().close();
  });

  it("asks for what was changed in the form, and says what the server says against it", async () => {
    const shown = await show(fleetReply({ history: [steady] }));
    const { page, asked } = shown;
    const wishes = (): unknown[] => asked.filter((request) => request.method() === "POST").map((request) => request.postDataJSON() as unknown);
    expect(await page.inputValue("#wish-shards")).toBe("4");
    expect(await page.inputValue("#wish-replicas")).toBe("1");
    shown.wishing = { status: 400, message: "90 shards have room for 12 parts each; 1,024 are to be placed." };
    await page.fill("#wish-shards", "90");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".wish .problem:not([hidden])");
    expect(await page.textContent(".wish .problem")).toBe(shown.wishing.message);
    expect(await page.inputValue("#wish-shards")).toBe("90");
    shown.wishing = null;
    await page.fill("#wish-shards", "4");
    await page.fill("#wish-replicas", "2");
    shown.answer = fleetReply({ change: warming });
    await page.click(".wish button");
    await page.waitForSelector(".change .badge[data-is=now]"); // without a second going by
    expect(wishes()).toEqual([{ shards: 90, region: "weur" }, { replicas: 2, region: "weur" }]);
    expect(await page.isHidden(".wish .problem")).toBe(true);
    expect(await page.getAttribute(".wish button", "aria-disabled")).toBe("true");
    expect(await page.textContent("#wish-reason")).toContain("One change at a time");
    expect([await page.inputValue("#wish-shards"), await page.inputValue("#wish-replicas")]).toEqual(["6", "2"]);
    expect(await page.evaluate(() => document.activeElement!.textContent)).toBe("Change the fleet");
    await page.keyboard.press("Enter");
    await page.fill("#wish-shards", "");
    await page.keyboard.press("Enter");
    await shown.next(fleetReply({}));
    expect(wishes()).toHaveLength(2);
    await page.keyboard.press("Enter");
    expect(await page.textContent(".wish .problem")).toBe("Shards is not a number. Expected one.");
    await page.context().close();
  });

  it("keeps the last figures where nobody answers, and says why nothing can be asked for", async () => {
    const { page, next, asked } = await show(fleetReply(null));
    const isBarred = (): Promise<boolean> => page.isDisabled("#wish-shards");
    expect([await isBarred(), await page.textContent("#wish-reason")]).toEqual([true, expect.stringContaining("The directory, which owns the plan, cannot be reached")]);
    await next({ ...fleetReply(), regions: [{ ...fleetReply().regions[0]!, directory: directory({ plan: null }) }] });
    expect([await isBarred(), await page.textContent("#wish-reason")]).toEqual([true, expect.stringContaining("no plan yet")]);
    await next(fleetReply());
    expect(await isBarred()).toBe(false);
    await next(null);
    expect([await page.locator(".shards tbody tr").count(), await page.textContent(".fleet-problem .problem"), await isBarred()]).toEqual([4, "The server does not answer. Is it running?", true]);
    await next({ status: 403, message: "This needs a key with the scope \"admin\"." });
    expect([await page.locator(".shards").count(), await isBarred(), await page.textContent("#wish-reason")]).toEqual([0, true, "Changes need a key with the scope admin."]);
    await page.fill(".key-form input", "the-key");
    await page.keyboard.press("Enter");
    await expect.poll(() => asked.at(-1)!.headers()["authorization"]).toBe("Bearer the-key");
    await (await asked.at(-1)!.response())!.finished();
    await settled(page);
    await next(fleetReply());
    expect([await page.isHidden(".fleet-problem"), await isBarred(), await page.locator(".shards tbody tr").count()]).toEqual([true, false, 4]);
    await page.context().close();
  });

  it("fits a phone of 360 pixels, light and dark, with everything there is", async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { page } = await show(fleetReply({ change: { ...warming, message: "x".repeat(200) }, history: [abandoned, steady], faults }), { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true, colorScheme });
      for (const summary of await page.locator(".fleet summary").all()) await summary.tap();
      const beyond = await page.$$eval("body *", (elements) => elements.filter((element) => element.closest(".visually-hidden, thead") === null && element.checkVisibility() && element.getBoundingClientRect().right > 360.5).map((element) => element.outerHTML.slice(0, 80)));
      expect(beyond).toEqual([]);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
      await page.context().close();
    }
  });
});
