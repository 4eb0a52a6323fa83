// Reads replies in which markers stand in the text: <think>…</think> before the answer (Qwen3, DeepSeek-R1) and <tool_call>{…}</tool_call>
// (Qwen, Hermes, Granite). Owns when text is certain: what could still become a marker is held back. Where a vocabulary has a marker as a
// control token, the token counts as its text. Refuses nothing: a call that is no JSON is shown as the text it is.

import type { ReplyParser, ReplyPart } from "./reply-parser.ts";
import type { Tokenizer } from "./tokenizer.ts";

export const THINK_START = "<think>";
export const THINK_END = "</think>";
export const TOOL_START = "<tool_call>";
export const TOOL_END = "</tool_call>";
/** Some vocabularies have them as control tokens; they are text all the same. */
export const MARKERS: ReadonlySet<string> = new Set([THINK_START, THINK_END, TOOL_START, TOOL_END]);

export interface MarkerSettings {
  readonly thinking: boolean;
  /** The prompt ends inside a thought. */
  readonly isThinking: boolean;
  readonly tools: boolean;
}

/** start: nothing but white space so far; thought: before </think>; answer; call: after <tool_call>. */
type State = "start" | "thought" | "answer" | "call";

export function createMarkerParser(tokenizer: Tokenizer, { thinking, isThinking, tools }: MarkerSettings): ReplyParser {
  let stream = tokenizer.stream();
  let state: State = isThinking ? "thought" : thinking ? "start" : "answer";
  /** Text not yet given out. */
  let held = "";
  /** The current thought or answer has shown something; white space before that, around markers, belongs to the markers. */
  let hasShown = state === "answer";
  let nCalls = 0;

  const emit = (parts: ReplyPart[], kind: "content" | "reasoning", text: string): void => {
    const shown = hasShown ? text : text.trimStart();
    if (shown === "") return;
    hasShown = true;
    parts.push({ kind, text: shown });
  };
  /** Everything before `marker` goes to `before`, or null when the marker has not come. */
  const until = (marker: string): string | null => {
    const at = held.indexOf(marker);
    if (at < 0) return null;
    const before = held.slice(0, at);
    held = held.slice(at + marker.length);
    return before;
  };
  const enter = (next: State): void => {
    state = next;
    hasShown = false;
  };

  /** Takes as many steps as the held text allows; `last`: no more text will come. */
  const advance = (last: boolean): ReplyPart[] => {
    const parts: ReplyPart[] = [];
    for (;;) {
      if (state === "start") {
        const text = held.trimStart();
        if (text.startsWith(THINK_START)) {
          held = text.slice(THINK_START.length);
          enter("thought");
          continue;
        }
        if (!last && THINK_START.startsWith(text)) return parts;
        // No thought: the answer, white space and all.
        state = "answer";
        hasShown = true;
        continue;
      }
      if (state === "thought") {
        const before = until(THINK_END);
        if (before !== null) {
          emit(parts, "reasoning", before.trimEnd());
          enter("answer");
          continue;
        }
        // White space before the end marker is not shown either, so it waits.
        const sure = last ? held.trimEnd().length : held.slice(0, held.length - heldBack(held, [THINK_END])).trimEnd().length;
        emit(parts, "reasoning", held.slice(0, sure));
        held = last ? "" : held.slice(sure);
        return parts;
      }
      if (state === "answer") {
        const before = tools ? until(TOOL_START) : null;
        if (before !== null) {
          emit(parts, "content", before.trimEnd());
          enter("call");
          continue;
        }
        const keep = last || !tools ? 0 : heldBack(held, [TOOL_START]);
        let sure = held.length - keep;
        if (tools && !last) sure = held.slice(0, sure).trimEnd().length; // white space before a call belongs to the call
        emit(parts, "content", held.slice(0, sure));
        held = hasShown ? held.slice(sure) : held.slice(sure).trimStart();
        return parts;
      }
      const json = until(TOOL_END);
      if (json === null && !last) return parts;
      const body = json ?? held;
      const calls = readCalls(body);
      if (json === null) held = "";
      if (calls === null) {
        hasShown = true;
        parts.push({ kind: "content", text: TOOL_START + body + (json === null ? "" : TOOL_END) });
      } else {
        for (const call of calls) parts.push({ kind: "tool", index: nCalls++, ...call });
      }
      enter("answer");
      if (json === null) return parts;
    }
  };

  return {
    push(id) {
      const token = tokenizer.isControl(id) ? tokenizer.tokenOf(id)! : null;
      if (token === null || !MARKERS.has(token)) held += stream.push(id);
      else {
        held += stream.flush() + token;
        stream = tokenizer.stream();
      }
      return advance(false);
    },
    flush() {
      held += stream.flush();
      return advance(true);
    },
  };
}

/** Length of the longest end of `text` that begins one of the markers. */
function heldBack(text: string, markers: readonly string[]): number {
  let longest = 0;
  for (const marker of markers) {
    for (let n = Math.min(marker.length - 1, text.length); n > longest; n--) {
      if (text.endsWith(marker.slice(0, n))) {
        longest = n;
        break;
      }
    }
  }
  return longest;
}

/** One call or a list of calls as JSON, or null when it is neither. Arguments that are text are taken as the JSON they should be. */
function readCalls(text: string): { name: string; arguments: string }[] | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const calls = (Array.isArray(value) ? value : [value]) as ({ name?: unknown; arguments?: unknown } | null)[];
  const read = calls.map((call) => {
    if (typeof call?.name !== "string") return null;
    const given = call.arguments ?? {};
    return { name: call.name, arguments: typeof given === "string" ? given : JSON.stringify(given) };
  });
  return read.length > 0 && read.every((call) => call !== null) ? read : null;
}
