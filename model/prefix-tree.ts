// Pages of keys and values that earlier generations left, by the tokens they stand for: a tree per scope whose nodes are pages of 32 positions.
// Owns which page continues which, how far new tokens agree with what is kept, and who goes first when room is needed. Refuses memory:
// a page is a number here, and kv-cache.ts knows what it means. Scopes never meet: what one may see another may not.

import { KV_BLOCK } from "./kernels.ts";

interface Node {
  /** Tokens of this page's positions: KV_BLOCK of them, or fewer in a last page, which nothing continues. */
  readonly ids: readonly number[];
  readonly page: number;
  readonly parent: Node | null;
  readonly scope: string;
  readonly children: Node[];
  lastUse: number;
}

/** What is kept of a sequence: whole pages, and the positions of one more that agree. */
export interface PrefixMatch {
  readonly pages: readonly number[];
  /** A page whose first `nPositions` belong to the sequence; null when it ends with a whole page. */
  readonly partial: { readonly page: number; readonly nPositions: number } | null;
}

const commonLength = (a: readonly number[], b: readonly number[], from: number, most: number): number => {
  const end = Math.min(a.length, b.length - from, most);
  let n = 0;
  while (n < end && a[n] === b[from + n]) n++;
  return n;
};

export class PrefixTree {
  readonly #roots = new Map<string, Node[]>();
  readonly #nodes = new Set<Node>();
  #clock = 0;

  /** Pages kept. */
  get size(): number { return this.#nodes.size; }

  /** The longest kept beginning of `ids`, at most `most` positions. What it finds counts as used now. */
  match(scope: string, ids: readonly number[], most: number): PrefixMatch {
    const pages: number[] = [];
    const now = ++this.#clock;
    let children = this.#roots.get(scope) ?? [];
    for (let at = 0; ; at += KV_BLOCK) {
      let [best, length] = [null as Node | null, 0];
      for (const child of children) {
        const n = commonLength(child.ids, ids, at, most - at);
        if (n > length) [best, length] = [child, n];
      }
      if (best === null) return { pages, partial: null };
      best.lastUse = now;
      if (length < KV_BLOCK) return { pages, partial: { page: best.page, nPositions: length } };
      pages.push(best.page);
      children = best.children;
    }
  }

  /**
   * Keeps the pages of a sequence, of which `ids` are evaluated. Calls `retain` for every page that is new here and `release` for every one it
   * replaces; pages whose tokens are kept already stay the caller's.
   */
  insert(scope: string, ids: readonly number[], pages: readonly number[], retain: (page: number) => void, release: (page: number) => void): void {
    const now = ++this.#clock;
    let siblings = this.#roots.get(scope) ?? [];
    let parent: Node | null = null;
    for (let at = 0; at < ids.length; at += KV_BLOCK) {
      const own = ids.slice(at, at + KV_BLOCK);
      const known: Node | undefined = siblings.find((node) => commonLength(node.ids, own, 0, KV_BLOCK) === own.length);
      if (known !== undefined) {
        known.lastUse = now;
        if (own.length < KV_BLOCK) return;
        parent = known;
        siblings = known.children;
        continue;
      }
      // Shorter last pages that this one continues have nothing more to give.
      for (const shorter of siblings.filter((node) => commonLength(own, node.ids, 0, KV_BLOCK) === node.ids.length)) {
        this.#remove(shorter);
        release(shorter.page);
      }
      const node: Node = { ids: own, page: pages[at / KV_BLOCK]!, parent, scope, children: [], lastUse: now };
      siblings.push(node);
      if (parent === null) this.#roots.set(scope, siblings); // it may be the first, or have replaced the only one
      this.#nodes.add(node);
      retain(node.page);
      parent = node;
      siblings = node.children;
    }
  }

  /** Forgets the page that was used longest ago, of those that nothing continues; null when none is left. */
  evict(): number | null {
    let oldest: Node | null = null;
    for (const node of this.#nodes) if (node.children.length === 0 && (oldest === null || node.lastUse < oldest.lastUse)) oldest = node;
    if (oldest === null) return null;
    this.#remove(oldest);
    return oldest.page;
  }

  #remove(node: Node): void {
    const siblings = node.parent === null ? this.#roots.get(node.scope)! : node.parent.children;
    siblings.splice(siblings.indexOf(node), 1);
    this.#nodes.delete(node);
    if (node.parent === null && siblings.length === 0) this.#roots.delete(node.scope);
  }
}
