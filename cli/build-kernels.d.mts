// Types of build-kernels.mjs, which stays plain JavaScript because it runs before anything is built.

/** Builds what is missing or stale. True when it built, false when everything was current. */
export function buildKernels(options?: { log?: (line: string) => void }): Promise<boolean>;
