// The cheapest largest flow through a network of whole capacities and costs: primal-dual (Ford and Fulkerson 1962), shortest paths with a queue,
// then as many augmentations as possible along them (Dinic 1970). Owns the residual network. Refuses negative costs and what flows: that is its callers' part.

export class FlowNetwork {
  readonly #nNodes: number;
  readonly #head: Int32Array;
  readonly #next: number[] = [];
  readonly #to: number[] = [];
  readonly #left: number[] = [];
  readonly #cost: number[] = [];

  constructor(nNodes: number) {
    this.#nNodes = nNodes;
    this.#head = new Int32Array(nNodes).fill(-1);
  }

  /** Returns the edge's number, for `flowOn`. */
  edge(from: number, to: number, capacity: number, cost: number): number {
    const number = this.#to.length;
    this.#half(from, to, capacity, cost);
    this.#half(to, from, 0, -cost);
    return number;
  }

  #half(from: number, to: number, capacity: number, cost: number): void {
    this.#next.push(this.#head[from]!);
    this.#head[from] = this.#to.length;
    this.#to.push(to);
    this.#left.push(capacity);
    this.#cost.push(cost);
  }

  flowOn(edge: number): number { return this.#left[edge + 1]!; }

  /** Sends as much as fits from `source` to `sink`, at least cost. Call once. */
  send(source: number, sink: number): { readonly flow: number; readonly cost: number } {
    let [flow, cost] = [0, 0];
    for (;;) {
      const distance = this.#distances(source);
      if (distance[sink] === Infinity) return { flow, cost };
      for (;;) {
        const level = this.#levels(source, distance);
        if (level[sink]! < 0) break;
        const sent = this.#augment(source, sink, distance, level);
        flow += sent;
        cost += sent * distance[sink]!;
      }
    }
  }

  /** Cost of the cheapest way to each node; costs of returned flow are negative, and no cycle is. */
  #distances(source: number): Float64Array {
    const distance = new Float64Array(this.#nNodes).fill(Infinity);
    const isQueued = new Uint8Array(this.#nNodes);
    distance[source] = 0;
    let queue = [source];
    while (queue.length > 0) {
      const later: number[] = [];
      for (const node of queue) {
        isQueued[node] = 0;
        for (let e = this.#head[node]!; e >= 0; e = this.#next[e]!) {
          const [to, far] = [this.#to[e]!, distance[node]! + this.#cost[e]!];
          if (this.#left[e]! <= 0 || far >= distance[to]!) continue;
          distance[to] = far;
          if (isQueued[to] === 0) { isQueued[to] = 1; later.push(to); }
        }
      }
      queue = later;
    }
    return distance;
  }

  #isOnCheapest(edge: number, from: number, distance: Float64Array): boolean {
    return this.#left[edge]! > 0 && distance[this.#to[edge]!] === distance[from]! + this.#cost[edge]!;
  }

  /** Steps from the source along cheapest edges only, so that ways of cost 0 do not run in circles; -1 where no such way leads. */
  #levels(source: number, distance: Float64Array): Int32Array {
    const level = new Int32Array(this.#nNodes).fill(-1);
    level[source] = 0;
    const queue = [source];
    for (const node of queue) {
      for (let e = this.#head[node]!; e >= 0; e = this.#next[e]!) {
        const to = this.#to[e]!;
        if (level[to]! >= 0 || !this.#isOnCheapest(e, node, distance)) continue;
        level[to] = level[node]! + 1;
        queue.push(to);
      }
    }
    return level;
  }

  /** A blocking flow along the levels, without recursion. */
  #augment(source: number, sink: number, distance: Float64Array, level: Int32Array): number {
    const current = this.#head.slice();
    const path: number[] = [];
    let [node, total] = [source, 0];
    for (;;) {
      if (node === sink) {
        const most = path.reduce((least, e) => Math.min(least, this.#left[e]!), Infinity);
        for (const e of path) { this.#left[e]! -= most; this.#left[e ^ 1]! += most; }
        total += most;
        path.length = path.findIndex((e) => this.#left[e] === 0);
        node = path.length === 0 ? source : this.#to[path.at(-1)!]!;
        continue;
      }
      let e = current[node]!;
      while (e >= 0 && !(level[this.#to[e]!] === level[node]! + 1 && this.#isOnCheapest(e, node, distance))) e = this.#next[e]!;
      current[node] = e;
      if (e >= 0) {
        path.push(e);
        node = this.#to[e]!;
      } else if (node === source) return total;
      else {
        level[node] = -1;
        node = this.#to[path.pop()! ^ 1]!;
      }
    }
  }
}
