// The three test projects. node: pure TypeScript and the command line; workerd: Worker and Durable Objects inside the real runtime;
// browser: the page in a headless Chromium, driven from Node. `npm test` runs all of them, after the set-up script has built what they need.

import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

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
              // A bucket for packs and an assets folder filled by the global set-up: tests choose by PACK_SOURCE.
              r2Buckets: ["PACKS"],
            },
          }),
        ],
        test: { name: "workerd", include: ["test/workerd/**/*.test.ts"], ...timeouts },
      },
      { test: { name: "browser", include: ["test/browser/**/*.test.ts"], ...timeouts } },
    ],
  },
});
