// How the page stands: the fleet view and when it asks, the heat map by pointer and keys, a phone, dark mode, everything by keyboard, and the policy that
// keeps foreign and inline code out.

import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { FleetReply } from "../../worker/wire-types.ts";
import { ask, hasBrowser, set, stage, type Stage, visit, type Visit } from "./browser.ts";

describe.skipIf(!hasBrowser)("the page's views", () => {
  let here: Stage;
  let there: Visit;
  let page: Page;
  beforeAll(async () => {
    here = await stage();
    there = await visit(here.browser, here.server.url);
    page = there.page;
    await set(page, "max-tokens", "12");
    await set(page, "seed", "1");
  });
  afterAll(() => here?.end());

  it("shows the fleet: shards, memory, state, and what was moved", async () => {
    await ask(page, "abc");
    await page.click("nav a[href='#fleet']");
    await page.waitForSelector(".shards tbody tr");
    const rows = await page.locator(".shards tbody tr").count();
    const fleet = await (await page.request.get(`${here.server.url}/v1/fleet`)).json() as { shards: { frames: number }[]; isolate: { account: Record<string, number> } };
    expect(rows).toBe(fleet.shards.length);
    expect(await page.locator(".shards [data-name=State] .value").first().textContent()).toMatch(/^(active|linger)$/);
    expect(await page.locator("[data-name='Moved so far'] .hint").first().textContent()).toBe(`${fleet.shards[0]!.frames} frame${fleet.shards[0]!.frames === 1 ? "" : "s"}`);
    expect(await page.locator(".legend li").count()).toBe(Object.values(fleet.isolate.account).filter((bytes) => bytes > 0).length);
    expect(await page.isHidden("#output")).toBe(true);
  });

  it("changes the fleet as it is asked to on the page, and says how that went", async () => {
    const fleet = async () => await (await page.request.get(`${here.server.url}/v1/fleet`)).json() as FleetReply;
    const before = (await fleet()).directory!.plan!;
    expect(await page.inputValue("#wish-shards")).toBe(String(before.shards.length));
    await page.fill("#wish-shards", String(before.shards.length - 1));
    await page.focus(".wish button");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".change .badge[data-is=done]");
    expect(await page.locator(".rail [data-is=done]").count()).toBe(6);
    expect(await page.locator(".shards tbody tr").count()).toBe(before.shards.length - 1);
    const after = await fleet();
    const [past] = after.directory!.history;
    expect(past).toMatchObject({ epoch: before.epoch + 1, outcome: "steady", shards: [before.shards.length, before.shards.length - 1] });
    expect(await page.textContent(".change-head")).toContain(`To epoch ${past!.epoch}: ${past!.reason}done${past!.shards[0]} → ${past!.shards[1]} shards · took `);
    expect(await page.locator(".shards [data-name=Holds] .value").allTextContents()).toEqual(after.directory!.plan!.shards.filter(({ segments }) => segments > 0).map(({ segments }) => `${segments} parts`));
    // The same again is nothing to do, and the server says so.
    await page.click(".wish button");
    await page.waitForSelector(".wish .problem:not([hidden])");
    expect(await page.textContent(".wish .problem")).toBe(`The plan in force (epoch ${past!.epoch}) is already as wished; nothing was changed.`);
    expect(there.complaints.filter((text) => !text.includes("409"))).toEqual([]); // the page's policy was not in the way
  });

  it("shows the load while a reply is written", async () => {
    await page.click("nav a[href='#write']");
    await set(page, "max-tokens", "4000");
    await page.fill("#prompt", "abc");
    await page.click("#send");
    await page.click("nav a[href='#fleet']");
    await page.waitForFunction(() => [...document.querySelectorAll("[data-name=Load] .value")].some((cell) => !/^0 frames/.test(cell.textContent ?? "")));
    await page.click("nav a[href='#write']");
    await page.click("#stop");
    await page.waitForSelector("#send:not([hidden])");
    await set(page, "max-tokens", "12");
  });

  it("asks for the fleet only while it is looked at", async () => {
    const other = await (await here.browser.newContext()).newPage();
    await other.clock.install();
    let nAsked = 0;
    other.on("request", (request) => void (request.url().endsWith("/v1/fleet") && nAsked++));
    await other.goto(`${here.server.url}/#fleet`);
    await other.waitForSelector(".shards tbody tr");
    /** A minute of the page's clock; whatever was asked in it is known after it. */
    const passAMinute = async (): Promise<void> => {
      await other.clock.fastForward(60_000);
      await other.evaluate(() => fetch("/health").then((reply) => reply.text()));
    };
    const expectQuestions = async (): Promise<void> => {
      nAsked = 0;
      // One question begins when the one before was answered, so with one under way a minute may have none.
      while (nAsked < 2) await passAMinute();
    };
    const expectSilence = async (): Promise<void> => {
      await passAMinute(); // for an answer that was under way
      nAsked = 0;
      for (let i = 0; i < 3; i++) await passAMinute();
      expect(nAsked).toBe(0);
    };
    await expectQuestions();
    await other.click("nav a[href='#write']");
    await expectSilence();
    await other.click("nav a[href='#fleet']");
    await expectQuestions();
    await other.evaluate(() => {
      Object.defineProperty(document, "visibilityState", { value: "hidden" });
      document.dispatchEvent(new Event("visibilitychange"));
    });
    await expectSilence();
    await other.context().close();
  });

  it("has a heat map that follows pointer and keys", async () => {
    await ask(page, "abc");
    /** Colours of the map's cells: [layer][expert], as the canvas has them in their middle. */
    const painted = (): Promise<string[][]> => page.$eval(".heat", (canvas) => {
      const { width, height } = canvas as HTMLCanvasElement;
      const context = (canvas as HTMLCanvasElement).getContext("2d")!;
      const left = 7 * devicePixelRatio;
      return [0, 1].map((layer) => Array.from({ length: 8 }, (_, expert) =>
        context.getImageData(left + ((expert + 0.5) * (width - left)) / 8, ((layer + 0.5) * height) / 2, 1, 1).data.join()));
    });
    // Cells that no token used have the colour of an empty one, and no others.
    const cells = await painted();
    const readouts: string[][] = [];
    await page.focus(".heat");
    for (const layer of [0, 1]) {
      await page.keyboard.press(layer === 0 ? "ArrowUp" : "ArrowDown");
      for (let i = 0; i < 8; i++) await page.keyboard.press("ArrowLeft");
      readouts.push([]);
      for (let expert = 0; expert < 8; expert++) {
        readouts[layer]!.push((await page.textContent(".readout"))!);
        await page.keyboard.press("ArrowRight");
      }
    }
    const shares = readouts.map((row, layer) => row.map((text, expert) => Number(new RegExp(`^Layer ${layer}, expert ${expert}: ([\\d.]+) %$`).exec(text)![1])));
    for (const row of shares) expect(row.reduce((sum, share) => sum + share, 0)).toBeGreaterThan(98);
    const empty = new Set(cells.flatMap((row, layer) => row.filter((_, expert) => shares[layer]![expert] === 0)));
    expect(empty.size).toBeLessThanOrEqual(1);
    const used = cells.flatMap((row, layer) => row.filter((_, expert) => shares[layer]![expert]! > 0));
    expect(used.length).toBeGreaterThan(4);
    expect(used.filter((colour) => empty.has(colour))).toEqual([]);
    // Enter at layer 1's last expert colours by that layer and keeps that expert.
    await page.keyboard.press("Enter");
    expect(await page.textContent("#layer-value")).toBe("1");
    expect(await page.locator(".expert[aria-pressed=true]").allTextContents()).toEqual(["7"]);
    await page.keyboard.press("Enter");
    expect(await page.locator(".expert[aria-pressed=true]").count()).toBe(0);
    const box = (await page.locator(".heat").boundingBox())!;
    await page.mouse.click(box.x + 7 + (2.5 * (box.width - 7)) / 8, box.y + box.height / 4);
    expect(await page.textContent("#layer-value")).toBe("0");
    expect(await page.locator(".expert[aria-pressed=true]").allTextContents()).toEqual(["2"]);
    await page.locator(".expert").nth(2).click();
  });

  it("can be used by keyboard alone", async () => {
    const visitor = await visit(here.browser, here.server.url);
    const { page: other } = visitor;
    const focus = (): Promise<string> => other.evaluate(() => document.activeElement?.id || document.activeElement?.textContent || "");
    const tabTo = async (id: string): Promise<void> => {
      for (let i = 0; i < 60 && (await focus()) !== id; i++) await other.keyboard.press("Tab");
      expect(await focus()).toBe(id);
    };
    await set(other, "max-tokens", "4000");
    await tabTo("prompt");
    await other.keyboard.type("abc");
    await tabTo("send");
    await other.keyboard.press("Enter");
    await other.waitForFunction(() => document.querySelectorAll(".token").length > 3);
    expect(await focus()).toBe("stop"); // the button that had the focus is gone; its successor has it
    await other.keyboard.press("Escape");
    await other.waitForSelector("#send:not([hidden])");
    expect(await focus()).toBe("send");
    await tabTo("show-code");
    await other.keyboard.press("Enter");
    await other.waitForSelector("dialog[open]");
    await other.keyboard.press("ArrowRight");
    expect(await other.textContent("dialog code")).toContain("import OpenAI");
    await other.keyboard.press("Escape");
    expect(await focus()).toBe("show-code");
    await other.context().close();
  });

  it.each(["#write", "#fleet"])("fits a phone of 360 pixels: %s", async (hash) => {
    const { page: phone } = await visit(here.browser, `${here.server.url}/${hash}`, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
    if (hash === "#write") {
      await set(phone, "max-tokens", "12");
      await ask(phone, "abc");
      await phone.locator(".token:not(.plain)").filter({ hasText: /\S/, visible: true }).last().tap();
      await phone.click("#settings summary");
      await phone.selectOption("#shape", "json_schema");
      await phone.fill("#shape-text", "[1, 2");
    } else await phone.waitForSelector(".shards tbody tr");
    // The row of examples scrolls by itself; everything else keeps within the screen.
    const beyond = await phone.$$eval("body *", (elements) => elements.filter((element) => element.closest(".examples, pre, .visually-hidden, thead") === null && element.checkVisibility() && element.getBoundingClientRect().right > 360.5).map((element) => element.outerHTML.slice(0, 80)));
    expect(beyond).toEqual([]);
    expect(await phone.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    await phone.context().close();
  });

  it("is dark where the system is, and its text is readable in both", async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { page: other } = await visit(here.browser, here.server.url, { colorScheme });
      /** Contrast after WCAG 2.2 of an element's text against the page's background. */
      const contrast = (selector: string): Promise<number> => other.$eval(selector, (element) => {
        const luminance = (colour: string): number => {
          const [r, g, b] = colour.match(/[\d.]+/g)!.map((value) => Number(value) / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
        };
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(getComputedStyle(document.body).backgroundColor)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      });
      for (const selector of ["h1", ".tagline", "#status-text", ".hint", "nav a", "footer p", ".settings summary"]) expect(await contrast(selector), `${selector}, ${colorScheme}`).toBeGreaterThan(4.5);
      const isDark = await other.evaluate(() => Number(getComputedStyle(document.body).backgroundColor.match(/\d+/)![0]) < 128);
      expect(isDark).toBe(colorScheme === "dark");
      await other.context().close();
    }
  });

  it("lets no inline and no foreign code in, and nobody frame it", async () => {
    for (const file of ["/", "/index.html", "/app.js", "/style.css", "/icon.svg"]) {
      const headers = (await page.request.get(`${here.server.url}${file}`)).headers();
      expect(headers["content-security-policy"], file).toBe("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'");
      expect(headers).toMatchObject({ "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "x-frame-options": "DENY", "cross-origin-opener-policy": "same-origin" });
    }
    const { page: other, complaints } = await visit(here.browser, here.server.url);
    expect(complaints).toEqual([]);
    await other.evaluate(() => {
      const found: string[] = [];
      Object.assign(window, { found });
      addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
      const attempt = (act: () => void): void => {
        try {
          act();
        } catch {
          // refused with an exception as well as with an event
        }
      };
      attempt(() => { document.body.innerHTML += "<b>markup</b>"; });
      attempt(() => document.body.setAttribute("style", "color: red"));
      attempt(() => document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "https://example.invalid/x.css" })));
      attempt(() => document.body.append(Object.assign(document.createElement("img"), { src: "https://example.invalid/x.png" })));
      void fetch("https://example.invalid/").catch(() => undefined);
    });
    const blocked = (): Promise<string[]> => other.evaluate(() => (window as unknown as { found: string[] }).found.toSorted());
    await expect.poll(blocked, { timeout: 20_000 }).toEqual(["connect-src", "img-src", "require-trusted-types-for", "style-src-attr", "style-src-elem"]);
    const framed = await here.browser.newPage();
    await framed.goto(`${here.server.url}/v1/models`); // a document of this origin without the page's policy
    await framed.evaluate((url) => {
      document.body.append(Object.assign(document.createElement("iframe"), { src: url }));
    }, here.server.url);
    await expect.poll(() => framed.frames().map((frame) => frame.url()), { timeout: 20_000 }).toContain("chrome-error://chromewebdata/");
    await framed.close();
  });
});
