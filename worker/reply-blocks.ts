// A chat reply as blocks in order: thoughts, text, calls of tools. What APIs with typed blocks (messages-form.ts, responses-form.ts) are made of.
// Owns which piece continues a block and which begins one. Refuses names and events of any API.

import type { Aside, Piece } from "./generation.ts";

type ToolPart = Extract<Aside, { readonly kind: "tool" }>;

export interface Block {
  readonly kind: "reasoning" | "text" | "call";
  /** Of a call: its number, and the function's name. */
  readonly call?: { readonly index: number; readonly name: string };
  /** Text so far; of a call, its arguments. */
  text: string;
}

export type BlockChange =
  | { readonly type: "open"; readonly at: number; readonly block: Block }
  | { readonly type: "grow"; readonly at: number; readonly text: string }
  | { readonly type: "close"; readonly at: number; readonly block: Block };

export class ReplyBlocks {
  readonly blocks: Block[] = [];
  #isOpen = false;

  add(piece: Piece): BlockChange[] {
    if (piece.kind === "prompt") return [];
    const changes: BlockChange[] = [];
    const calls = piece.aside.filter((part) => part.kind === "tool");
    const firstNew = calls.findIndex(({ name }) => name !== undefined);
    const nOld = firstNew < 0 ? calls.length : firstNew;
    // The end of a call that is open comes before text, which ends it.
    this.#addCalls(changes, calls.slice(0, nOld));
    for (const part of piece.aside) if (part.kind === "reasoning") this.#grow(changes, { kind: "reasoning" }, part.text);
    if (piece.text !== "") this.#grow(changes, { kind: "text" }, piece.text);
    this.#addCalls(changes, calls.slice(nOld));
    if (piece.kind === "end") this.#close(changes);
    return changes;
  }

  #addCalls(changes: BlockChange[], calls: readonly ToolPart[]): void {
    for (const { index, name, arguments: text } of calls) {
      if (name !== undefined) this.#open(changes, { kind: "call", call: { index, name }, text: "" });
      if (text !== "") this.#append(changes, text);
    }
  }

  #grow(changes: BlockChange[], of: Pick<Block, "kind">, text: string): void {
    if (!this.#isOpen || this.blocks.at(-1)!.kind !== of.kind) this.#open(changes, { ...of, text: "" });
    this.#append(changes, text);
  }

  #append(changes: BlockChange[], text: string): void {
    const at = this.blocks.length - 1;
    this.blocks[at]!.text += text;
    changes.push({ type: "grow", at, text });
  }

  #open(changes: BlockChange[], block: Block): void {
    this.#close(changes);
    this.blocks.push(block);
    this.#isOpen = true;
    changes.push({ type: "open", at: this.blocks.length - 1, block });
  }

  #close(changes: BlockChange[]): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    const at = this.blocks.length - 1;
    changes.push({ type: "close", at, block: this.blocks[at]! });
  }
}
