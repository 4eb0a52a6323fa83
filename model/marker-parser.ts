// Reads replies in which markers stand in the text: <think>…</think> before the answer (Qwen3, DeepSeek-R1) and <tool_call>{…}</tool_call>
// (Qwen, Hermes, Granite). Owns when text is certain: what could still become a marker is held back, and so is a call until its name is known
// (call-scanner.ts). Where a vocabulary has a marker as a control token, the token counts as its text. Refuses nothing: what is no call is shown as text.

import { type CallPiece, CallScanner } from "./call-scanner.ts";
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
  /** White space before it. Apart, so that a run of it is not read again with every token. */
  let space = "";
  /** The current thought or answer has shown something; white space before that, around markers, belongs to the markers. */
  let hasShown = state === "answer";
  let scanner = new CallScanner(0);
  /** The marker of the call being read with the white space before it: text, should there be no call. */
  let opening = "";

  const emit = (parts: ReplyPart[], kind: "content" | "reasoning", text: string, withSpace = hasShown): void => {
    const shown = withSpace ? text : text.trimStart();
    if (shown === "") return;
    hasShown = true;
    parts.push({ kind, text: shown });
  };
  /** The same but for white space at the end, which may belong to a marker that comes: it waits. */
  const show = (parts: ReplyPart[], kind: "content" | "reasoning", text: string): void => {
    const shown = text.trimEnd();
    if (shown !== "") {
      emit(parts, kind, space + shown);
      space = "";
    }
    space += text.slice(shown.length);
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
    space = "";
  };
  const give = (parts: ReplyPart[], pieces: readonly CallPiece[]): void => {
    for (const piece of pieces) parts.push({ kind: "tool", ...piece });
  };
  /** From a call back to the answer. `taken` was none; had the markers no call at all between them, they are text too. */
  const leave = (parts: ReplyPart[], taken: string, end: string): void => {
    enter("answer");
    emit(parts, "content", scanner.hasCalls ? taken : opening + taken + end, true);
  };

  /** Takes as many steps as the held text allows; `last`: no more text will come. */
  const advance = (last: boolean): ReplyPart[] => {
    const parts: ReplyPart[] = [];
    for (;;) {
      if (state === "start") {
        const text = held.trimStart();
        space += held.slice(0, held.length - text.length);
        held = text;
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
          show(parts, "reasoning", before);
          enter("answer");
          continue;
        }
        const sure = held.length - (last ? 0 : heldBack(held, [THINK_END]));
        show(parts, "reasoning", held.slice(0, sure));
        held = held.slice(sure);
        return parts;
      }
      if (state === "answer") {
        const before = tools ? until(TOOL_START) : null;
        if (before !== null) {
          show(parts, "content", before);
          opening = (hasShown ? space : "") + TOOL_START;
          scanner = new CallScanner(scanner.nCalls);
          enter("call");
          continue;
        }
        const sure = held.length - (last || !tools ? 0 : heldBack(held, [TOOL_START]));
        show(parts, "content", held.slice(0, sure));
        held = held.slice(sure);
        if (last || !tools) {
          emit(parts, "content", space);
          space = "";
        }
        return parts;
      }
      const end = held.indexOf(TOOL_END);
      // A reply that is cut inside the end marker has said all of its call.
      const sure = end >= 0 ? end : held.length - (last && !scanner.isDone ? 0 : heldBack(held, [TOOL_END]));
      const { pieces, broken } = scanner.push(held.slice(0, sure));
      give(parts, pieces);
      if (broken !== null) {
        held = broken.rest + held.slice(sure);
        leave(parts, broken.taken, "");
        continue;
      }
      held = held.slice(sure);
      if (end < 0 && !last) return parts;
      const unfinished = scanner.end();
      give(parts, unfinished.pieces);
      held = end < 0 ? "" : held.slice(TOOL_END.length);
      leave(parts, unfinished.taken, end < 0 ? "" : TOOL_END);
      if (end < 0) return parts;
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
