// A call's result without its tie to the call: the runtime keeps a call open, and complains, until its result is disposed of (2026-11).
// Owns that one copy. Refuses checks: what comes from another version is for the caller to parse.

export function plain<T extends object>(answer: T): T {
  const value = { ...answer };
  (answer as Partial<Disposable>)[Symbol.dispose]?.();
  return value;
}
