// Bundles web/ into build/web/: app.ts as one module and style.css as one sheet, both without source map; index.html and icon.svg as they are.
// Nothing is inlined and nothing comes from elsewhere: the page's content security policy (worker/page.ts) allows its own files only.

import { build } from "esbuild";
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));

export async function buildWeb() {
  const out = join(root, "build", "web");
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  await build({
    entryPoints: [join(root, "web", "app.ts"), join(root, "web", "style.css")],
    outdir: out,
    bundle: true,
    format: "esm",
    target: "es2022",
    minify: true,
    logLevel: "warning",
  });
  for (const file of ["index.html", "icon.svg"]) copyFileSync(join(root, "web", file), join(out, file));
}
