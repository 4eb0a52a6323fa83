// Things in their order, as many together as fit a limit: files of tensors, rows or sums that are held at a time. Owns the cut. Refuses to part a thing: one larger than the limit stands alone.

/** Consecutive groups, none larger than the limit unless it is one thing. */
export function sizeGroups<Thing>(things: readonly Thing[], bytesOf: (thing: Thing) => number, limitBytes: number): Thing[][] {
  const groups: Thing[][] = [];
  let left = 0;
  for (const thing of things) {
    const bytes = bytesOf(thing);
    if (groups.length === 0 || bytes > left) {
      groups.push([]);
      left = limitBytes;
    }
    groups.at(-1)!.push(thing);
    left -= bytes;
  }
  return groups;
}
