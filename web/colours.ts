// Colours of experts. Hues step by the golden angle, so that neighbouring numbers look different however many experts there are.

/** Hue of an expert in degrees. */
export const hueOf = (expert: number): number => (40 + expert * 137.508) % 360;

/** Solid colour of an expert; lightness and chroma come from the theme. */
export const colourOf = (expert: number): string => `oklch(var(--expert-l) var(--expert-c) ${hueOf(expert).toFixed(1)})`;

/** Soft background of a token whose strongest expert has this share of the weights (0 to 1). */
export const tintOf = (expert: number, share: number): string =>
  `oklch(var(--tint-l) var(--tint-c) ${hueOf(expert).toFixed(1)} / ${(0.35 + 0.65 * share).toFixed(2)})`;

/** A bar of all experts of a token, widths by weight, as a CSS background. */
export function barOf(experts: readonly number[], weights: readonly number[]): string {
  const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
  let at = 0;
  const stops = experts.map((expert, i) => {
    const from = at;
    at += (100 * (weights[i] ?? 0)) / total;
    return `${colourOf(expert)} ${from.toFixed(1)}% ${at.toFixed(1)}%`;
  });
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}
