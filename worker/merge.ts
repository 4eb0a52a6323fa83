// Runs several asynchronous sequences side by side and merges what they yield, in the order of arrival.
// At most `atOnce` run at a time. When one fails, or the reader stops, the others are ended too.

export async function* mergeIndexed<T>(starts: readonly (() => AsyncGenerator<T>)[], atOnce: number): AsyncGenerator<{ index: number; value: T }> {
  interface Running { readonly index: number; readonly sequence: AsyncGenerator<T> }
  const pending = new Map<Running, Promise<{ running: Running; result: IteratorResult<T> }>>();
  let nextIndex = 0;
  const advance = (running: Running): void =>
    void pending.set(running, running.sequence.next().then((result) => ({ running, result })));
  const start = (): void => {
    const index = nextIndex++;
    advance({ index, sequence: starts[index]!() });
  };
  try {
    while (nextIndex < Math.min(atOnce, starts.length)) start();
    while (pending.size > 0) {
      const { running, result } = await Promise.race(pending.values());
      if (result.done === true) {
        pending.delete(running);
        if (nextIndex < starts.length) start();
      } else {
        yield { index: running.index, value: result.value };
        advance(running);
      }
    }
  } finally {
    for (const [running, promise] of pending) {
      promise.catch(() => {}); // its failure, if any, is not the one being reported
      void running.sequence.return(undefined).catch(() => {});
    }
  }
}
