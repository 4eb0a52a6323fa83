// What `chat` writes of a reply with reasoning and calls of tools, in a terminal and in a pipe.

import { describe, expect, it } from "vitest";
import { ReplyDisplay } from "../../../cli/reply-display.ts";
import type { ReplyPart } from "../../../model/reply-parser.ts";

const REPLY: readonly ReplyPart[] = [
  { kind: "reasoning", text: "Two and " }, { kind: "reasoning", text: "two." }, { kind: "content", text: "Fo" }, { kind: "content", text: "ur." },
  { kind: "tool", index: 0, name: "add", arguments: "" }, { kind: "tool", index: 0, arguments: '{"a":2}' }, { kind: "tool", index: 1, name: "stop", arguments: "{}" },
];

function shown(parts: readonly ReplyPart[], isTerminal: boolean): { out: string; aside: string; display: ReplyDisplay } {
  const [out, aside] = [[] as string[], [] as string[]];
  const display = new ReplyDisplay({ isTerminal, out: (text) => void out.push(text), aside: (text) => void aside.push(text) });
  for (const part of parts) display.show([part]);
  display.end();
  return { out: out.join(""), aside: aside.join(""), display };
}

const withoutColours = (text: string): string => text.replaceAll(/\u001b\[\d+m/g, "");

describe("a reply in a terminal", () => {
  it("has every part on lines of its own, and all but the answer dimmed", () => {
    const { out, aside, display } = shown(REPLY, true);
    expect(withoutColours(out)).toBe('Two and two.\nFour.\nadd {"a":2}\nstop {}\n');
    expect(aside).toBe("");
    expect(out).toContain("\u001b[2mTwo and \u001b[22m");
    expect(out).toContain("\nFour.\n");
    expect([display.answer, display.reasoning]).toEqual(["Four.", "Two and two."]);
  });
});

describe("a reply in a pipe", () => {
  it("leaves the answer alone on stdout", () => {
    const { out, aside } = shown(REPLY, false);
    expect(out).toBe("Four.\n");
    expect(aside).toBe('Two and two.\nadd {"a":2}\nstop {}\n');
  });

  it.each([
    ["an answer", [{ kind: "content", text: "a\nb" }], "a\nb\n", ""], ["nothing", [], "\n", ""], ["reasoning alone", [{ kind: "reasoning", text: "hm" }], "\n", "hm\n"],
  ] satisfies (readonly [string, readonly ReplyPart[], string, string])[])("ends a line of stdout with %s", (_, parts, out, aside) => {
    expect(shown(parts, false)).toMatchObject({ out, aside });
  });
});
