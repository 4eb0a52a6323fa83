// Types of setup.mjs, which is plain JavaScript because it runs before anything is installed.
export const ROOT: string;
export const pinnedNode: string;
export function missingPackages(root: string): string | null;
export function hashOf(root: string, paths: readonly string[]): string;
export function linkOrCopy(from: string, to: string): void;
export function assembleAssets(directory: string, packs: Readonly<Record<string, string>>): void;
export function buildProgram(): Promise<void>;
