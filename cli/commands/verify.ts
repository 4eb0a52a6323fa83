// `workers-moe verify <pack>`: reads every byte of a pack and checks every hash; the manifest's own checks (coverage, shapes,
// overlaps) run as it is opened. Refuses to repair.

import type { Command } from "commander";
import { type ByteSource, SourceError } from "../../formats/byte-source.ts";
import { blobHash } from "../../formats/blob-writer.ts";
import { blobsOf } from "../../formats/manifest.ts";
import { type OpenPack, loadBlobs, openPack, readTokenizerJson } from "../../formats/pack-reader.ts";
import { FolderSource } from "../file-source.ts";
import { startProgress } from "../progress.ts";
import { showBytes } from "../sizes.ts";

export interface Verification {
  readonly packHash: string;
  readonly parts: number;
  readonly blobs: number;
  readonly checkedBytes: number;
}

export function register(program: Command): void {
  program.command("verify")
    .description("check every hash of a pack")
    .argument("<pack>", "folder of a pack")
    .option("--json", "print one JSON document")
    .action(async (path: string, options: { json?: boolean }) => {
      const source = new FolderSource(path);
      const pack = await openPack(source);
      const total = pack.manifest.parts.reduce((n, p) => n + p.bytes, 0) / 2 ** 20;
      const bar = startProgress({ label: `verifying ${pack.manifest.id}`, total, unit: "MiB", quiet: options.json === true });
      let found: Verification;
      try {
        found = await verify(source, pack, (bytes) => bar.update(bytes / 2 ** 20));
      } finally {
        bar.stop();
      }
      process.stdout.write(options.json === true ? `${JSON.stringify({ ok: true, ...found })}\n`
        : `${pack.manifest.id}: ${found.blobs} blobs in ${found.parts} parts, ${showBytes(found.checkedBytes)}, all as the manifest says.\n`);
    });
}

/** Throws SourceError at the first thing that is not as the manifest says. */
export async function verify(
  source: ByteSource, { manifest, packHash }: OpenPack, onProgress: (checkedBytes: number) => void = () => {},
): Promise<Verification> {
  const where = `Pack ${manifest.id} (${source.description})`;
  for (const part of manifest.parts) {
    const found = await source.size(part.name);
    if (found !== part.bytes) {
      throw new SourceError(`${where}, ${part.name} ${found === null ? "is missing" : `has ${found} bytes`}, expected ${part.bytes} bytes.`);
    }
  }
  await readTokenizerJson(source, manifest);
  const targets = [...blobsOf(manifest)].map((b) => ({ ...b, write(): void {} }));
  for (const { name, blob } of targets) {
    const found = await blobHash(blob.extents);
    if (found !== blob.hash) throw new SourceError(`${where}, blob ${name}: the hashes of its extents give ${found}, expected ${blob.hash}.`);
  }
  let checkedBytes = 0;
  await loadBlobs(source, manifest, targets, { onProgress: (bytes) => onProgress((checkedBytes = bytes)) });
  return { packHash, parts: manifest.parts.length, blobs: targets.length, checkedBytes };
}
