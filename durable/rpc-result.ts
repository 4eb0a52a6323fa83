// A call's result without its tie to the call: the runtime keeps a call open, and complains, until its result is disposed of (2026-11).
// Owns that one copy. Refuses checks: what comes from another version is for the caller to parse.

/** Plain through and through: what is frozen or walked later must not meet the call's own objects. */
export function plain<T>(answer: unknown): T {
  const value = structuredClone(answer !== null && typeof answer === "object" ? { ...answer } : answer) as T;
  (answer as Partial<Disposable> | null)?.[Symbol.dispose]?.();
  return value;
}
