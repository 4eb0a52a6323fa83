// A headless Chromium for the tests of the page, and a page in it that keeps account: what was logged as an error, which origins were asked, what was sent.
// Without a browser these tests are skipped with a reason; where CI is set, page.test.ts fails instead.

import { existsSync } from "node:fs";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";
import { startServe, writeTinyPack, type Serving } from "../support/serve.ts";

export const executablePath = process.env["CHROMIUM_PATH"] ?? "/usr/bin/chromium";
export const hasBrowser = existsSync(executablePath);
if (!hasBrowser && (process.env["CI"] ?? "") === "") console.warn(`The tests of the page are skipped: there is no Chromium at ${executablePath} (CHROMIUM_PATH names another).`);

export const launch = (): Promise<Browser> => chromium.launch({ executablePath, args: ["--no-sandbox"] });

export interface Sent {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Visit {
  readonly page: Page;
  /** Errors of the console and of scripts; a 503 while the model loads is none. */
  readonly complaints: string[];
  readonly origins: Set<string>;
  /** Bodies of POSTs, in order. */
  readonly sent: Sent[];
}

/** Opens the page and waits until the model is ready. */
export async function visit(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Visit> {
  const page = await (await browser.newContext(options)).newPage();
  const made: Visit = { page, complaints: [], origins: new Set(), sent: [] };
  page.on("console", (message) => message.type() === "error" && !message.text().includes("503") && made.complaints.push(message.text()));
  page.on("pageerror", (error) => made.complaints.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith("data:")) made.origins.add(new URL(request.url()).origin);
    if (request.method() === "POST") made.sent.push({ path: new URL(request.url()).pathname, body: JSON.parse(request.postData() ?? "{}") as Sent["body"] });
  });
  await page.goto(url);
  await page.waitForSelector("#status[data-kind=ready]");
  return made;
}

/** The tiny model served, or another pack, and a browser. */
export interface Stage {
  readonly server: Serving;
  readonly browser: Browser;
  readonly end: () => Promise<void>;
}

export async function stage(written: ReturnType<typeof writeTinyPack> = writeTinyPack()): Promise<Stage> {
  const pack = await written;
  const server = await startServe(pack.folder);
  const browser = await launch();
  return {
    server, browser,
    end: async () => {
      await browser.close();
      await server.stop();
      pack.remove();
    },
  };
}

/** Sets an input as typing would, wherever it is hidden. */
export async function set(page: Page, id: string, value: string): Promise<void> {
  await page.$eval(`#${id}`, (input, text) => {
    (input as unknown as { value: string }).value = text;
    input.dispatchEvent(new Event("input"));
    input.dispatchEvent(new Event("change"));
  }, value);
}

/** Sends the prompt and waits for the end of the reply; the text of the last reply. */
export async function ask(page: Page, prompt: string): Promise<string> {
  const nBefore = await page.locator(".facts").count();
  const isChat = await page.isChecked("input[name=mode][value=chat]");
  await page.fill("#prompt", prompt);
  await page.click("#send");
  await page.waitForSelector(`.facts >> nth=${isChat ? nBefore : 0}`);
  await page.waitForSelector("#send:not([hidden])");
  return (await page.locator(".turn").last().locator(".token").allTextContents()).join("");
}
