// What `profile` is asked for, as its options say it. Owns the record and the reading of numbers and layers. Refuses what is no number, and layers that are none.

import { InvalidArgumentError } from "commander";
import type { RoutingMeasure } from "../../fleet/sequence-routing.ts";
import type { LabelledFile } from "./class-sources.ts";
import type { FoundBy, ProfileOp } from "./find-profile.ts";

export interface ProfileOptions {
  readonly texts?: readonly LabelledFile[];
  readonly divergence?: readonly LabelledFile[];
  readonly counts?: readonly LabelledFile[];
  readonly target?: string;
  readonly op?: ProfileOp;
  readonly gain?: number;
  readonly lambda?: number;
  readonly by?: FoundBy | RoutingMeasure;
  readonly layers?: "all" | "middle" | readonly number[];
  readonly tau?: number;
  readonly top?: number;
  readonly ratio?: number;
  readonly random?: number;
  readonly effect?: string;
  readonly prompts?: string;
  readonly marker?: string;
  readonly draws: number;
  readonly name?: string;
  readonly per: "window" | "line";
  readonly window: number;
  readonly samples?: number;
  readonly pooled?: boolean;
  readonly map?: string;
  readonly out?: string;
  readonly report: boolean;
  readonly json?: boolean;
}

export function finite(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
}

export function ratioOf(text: string): number {
  const value = finite(text);
  if (value < 1) throw new InvalidArgumentError("Expected a number of at least 1.");
  return value;
}

/** "all", "middle", or numbers and spans: 1-2,5. */
export function layersOf(text: string): "all" | "middle" | number[] {
  if (text === "all" || text === "middle") return text;
  const layers = text.split(",").flatMap((part) => {
    const span = /^(\d+)(?:-(\d+))?$/.exec(part.trim());
    const [from, to] = span === null ? [1, 0] : [Number(span[1]), Number(span[2] ?? span[1])];
    if (!(from <= to) || to > 0xffff) throw new InvalidArgumentError("Expected all, middle, or layers such as 1-2,5.");
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
  return [...new Set(layers)].sort((a, b) => a - b);
}
