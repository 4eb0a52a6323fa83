// The four test projects. node: pure TypeScript; commands: the command line, servers and the house itself; workerd: Worker and Durable Objects inside
// the real runtime; browser: the page in a headless Chromium, driven from Node. `npm test` runs all of them, after the set-up script has built what they need.

import { availableParallelism } from "node:os";
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** Generous, because tests share a machine with whatever else runs there: nothing is timed in a test. */
const timeouts = { testTimeout: 120_000, hookTimeout: 120_000 };
const COMMANDS = ["test/node/{api,cli,house}/**/*.test.ts"];
/** After the first project, since theirs is another number of workers. */
const others = { sequence: { groupOrder: 1 } };

export default defineConfig({
  test: {
    projects: [
      // These start no servers and compute all the time: a file for every core. The others go by one core less, which wrangler's own processes use.
      { test: { name: "node", include: ["test/{node,methods}/**/*.test.ts"], exclude: COMMANDS, maxWorkers: availableParallelism(), sequence: { groupOrder: 0 }, ...timeouts } },
      { test: { name: "commands", include: COMMANDS, ...others, ...timeouts } },
      {
        plugins: [
          cloudflareTest({
            wrangler: { configPath: "./wrangler.toml" },
            remoteBindings: false,
            miniflare: {
              // The packs of test/support/workerd-packs.ts, as a deployment has them; and a bucket for tests of R2.
              assets: { directory: "./build/test-assets", binding: "ASSETS" },
              r2Buckets: ["PACKS"],
              bindings: { PACK_ID: "tiny", OPEN_ACCESS: "true", LOG: "off" },
            },
          }),
        ],
        test: {
          name: "workerd", include: ["test/workerd/**/*.test.ts"], globalSetup: ["test/support/workerd-packs.ts"], ...others, ...timeouts,
        },
      },
      { test: { name: "browser", include: ["test/browser/**/*.test.ts"], ...others, ...timeouts } },
    ],
  },
});
