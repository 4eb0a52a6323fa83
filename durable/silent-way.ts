// An orchestrator that says nothing, where others could say the same: is it there? Owns the question, asked beside the wait, and when it counts as no. Refuses what
// becomes of the reply then (generate-client.ts), and to hurry one that answers: a long prompt, or a shard that is waited for, is silence with a reason.

import { within, type Clock } from "./clock.ts";
import type { Limits } from "./limits.ts";

/** It said nothing for a while, and nothing when asked whether it is there. */
export class SilentWay extends Error {}

/**
 * What `promise` gives, however long that takes, while the one it comes from answers `isReady`, whatever it says. Throws SilentWay once that was not answered in
 * `pingDeadlineMs`, or rejected.
 */
export function heardFrom<T>(way: { isReady(): Promise<boolean> }, promise: Promise<T>, clock: Clock, limits: Pick<Limits, "silentMs" | "pingDeadlineMs">): Promise<T> {
  return new Promise((resolve, reject) => {
    let isOver = false;
    let cancel = (): void => {};
    const end = (settle: () => void): void => {
      if (isOver) return;
      isOver = true;
      cancel();
      settle();
    };
    const watch = (): void => {
      cancel = clock.after(limits.silentMs, () => {
        within(clock, limits.pingDeadlineMs, way.isReady(), `no answer in ${limits.pingDeadlineMs / 1000} s`).then(
          () => { if (!isOver) watch(); },
          (cause: unknown) => end(() => reject(new SilentWay(`it said nothing for ${limits.silentMs / 1000} s, and to the question whether it is there: ${cause instanceof Error ? cause.message : String(cause)}`))),
        );
      });
    };
    watch();
    promise.then((value) => end(() => resolve(value)), (cause: unknown) => end(() => reject(cause instanceof Error ? cause : new Error(String(cause)))));
  });
}
