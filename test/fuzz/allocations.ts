// Watches how large single allocations are: typed arrays, buffers, lists made by length, repeated texts. A count in a file that is believed before
// it is checked shows here even where the memory is given back at once. Owns the replaced globals. Refuses to change what they make.

let largest = 0;
const note = (bytes: number): void => { if (bytes > largest) largest = bytes; };

/** Since the last reset, in bytes. 0 until watchAllocations. */
export const largestAllocation = (): number => largest;
export const resetAllocations = (): void => { largest = 0; };

/** From now on, for the whole process. */
export function watchAllocations(): void {
  const globals = globalThis as unknown as Record<string, new (...args: unknown[]) => object>;
  for (const name of ["ArrayBuffer", "Uint8Array", "Uint16Array", "Uint32Array", "Int32Array", "Float32Array", "Float64Array", "BigUint64Array"]) {
    const bytesEach = (globals[name] as unknown as { BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ?? 1;
    globals[name] = new Proxy(globals[name]!, {
      construct(made, args: unknown[], newTarget) {
        if (typeof args[0] === "number") note(args[0] * bytesEach);
        return Reflect.construct(made, args, newTarget) as object;
      },
    });
  }
  const from = Array.from.bind(Array) as (...args: unknown[]) => unknown[];
  Array.from = ((items: { length?: number }, ...rest: unknown[]) => {
    if (typeof items.length === "number") note(items.length * 8);
    return from(items, ...rest);
  }) as typeof Array.from;
  const { repeat } = String.prototype;
  String.prototype.repeat = function (this: string, n: number) {
    note(this.length * n);
    return repeat.call(this, n);
  };
}
