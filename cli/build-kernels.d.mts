// Types of build-kernels.mjs, which is plain JavaScript so that the set-up script can run it before anything is installed.
export function buildKernels(options?: { log?: (line: string) => void }): Promise<unknown>;
