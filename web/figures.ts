// Numbers as the page writes them, and the one way it makes elements. Refuses markup: text is always text.

export const percent = (share: number): string => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

/** Bytes in the unit that leaves one to three digits before the point; MiB as everywhere in this project. */
export function byteSize(bytes: number): string {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  const [size, unit] = bytes < 1024 * 1024 ? [bytes / 1024, "KiB"] : bytes < 1024 ** 3 ? [bytes / 1024 ** 2, "MiB"] : [bytes / 1024 ** 3, "GiB"];
  return `${size.toFixed(size < 99.95 ? 1 : 0)} ${unit}`;
}

/** Milliseconds. Clocks in Workers may tick in whole ones, so a zero is less than one, and nobody invents digits. */
export const milliseconds = (ms: number): string => (ms === 0 ? "< 1 ms" : `${Number.isInteger(ms) || ms >= 100 ? ms.toFixed(0) : ms.toFixed(ms < 10 ? 2 : 1)} ms`);

/** How long something took, from milliseconds to hours. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 99_950) return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
  return ms < 7_200_000 ? `${Math.round(ms / 60_000)} min` : ms < 172_800_000 ? `${Math.round(ms / 3_600_000)} h` : `${Math.round(ms / 86_400_000)} days`;
}

/** How long ago something was, in whole seconds: clocks of two machines never agree better. */
export const ago = (ms: number): string => (ms < 1500 ? "just now" : `${ms < 99_500 ? `${Math.round(ms / 1000)} s` : duration(ms)} ago`);

/** A thin space between thousands, as is usual in print. */
export const count = (n: number): string => Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");

export const counted = (n: number, noun: string): string => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

export function element<Tag extends keyof HTMLElementTagNameMap>(tag: Tag, className = "", text = ""): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}
