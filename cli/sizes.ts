// Sizes in words: MiB for bytes, millions for parameters. Refuses decimal megabytes, which would not match the limits.

const KiB = 1024;

/** "512 B", "12.3 KiB", "4.00 MiB", "1.25 GiB". */
export function showBytes(bytes: number): string {
  if (bytes < KiB) return `${bytes} B`;
  if (bytes < KiB ** 2) return `${(bytes / KiB).toFixed(1)} KiB`;
  if (bytes < KiB ** 3) return `${(bytes / KiB ** 2).toFixed(2)} MiB`;
  return `${(bytes / KiB ** 3).toFixed(2)} GiB`;
}

/** "97", "12.3 k", "4.72 M", "6.92 G". */
export function showCount(n: number): string {
  if (n < 1000) return String(n);
  if (n < 1e6) return `${(n / 1e3).toFixed(1)} k`;
  if (n < 1e9) return `${(n / 1e6).toFixed(2)} M`;
  return `${(n / 1e9).toFixed(2)} G`;
}

/** "12.3 %". */
export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** Lines of "name   value", aligned. */
export function showTable(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}\n`).join("");
}
