// What the global set-up of the `workerd` project provides to its tests (workerd-packs.ts), as types. Holds no code.

declare module "vitest" {
  interface ProvidedContext {
    /** Pieces of stories260K's vocabulary, or why the test must be skipped. */
    stories: { pieces: readonly string[] } | { skip: string };
  }
}

export {};
