// The three test projects. node: pure TypeScript and the command line; workerd: Worker and Durable Objects inside the real runtime;
// browser: the page in a headless Chromium, driven from Node. `npm test` runs all of them, after the set-up script has built what they need.

import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** Generous, because tests share a machine with whatever else runs there: nothing is timed in a test. */
const timeouts = { testTimeout: 120_000, hookTimeout: 120_000 };

export default defineConfig({
  test: {
    projects: [
      { test: { name: "node", include: ["test/node/**/*.test.ts"], ...timeouts } },
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
          name: "workerd", include: ["test/workerd/**/*.test.ts"], globalSetup: ["test/support/workerd-packs.ts"], ...timeouts,
        },
      },
      { test: { name: "browser", include: ["test/browser/**/*.test.ts"], ...timeouts } },
    ],
  },
});
