// An integer programme built row by row and solved by HiGHS (npm `highs`, WebAssembly). Owns the builder, the options that make every solve the same,
// and the limit in nodes. Refuses what the variables mean: that is placement-two-stage.ts.

import loadHighs, { type Highs } from "highs";

/** Branch-and-bound nodes of one programme; HiGHS stops there with the best it has. Counted, because seconds would differ from run to run. */
const MAX_NODES = 1_000;

export interface IlpSolution {
  readonly values: Float64Array;
  /** False where the nodes ran out before the optimum was proven. */
  readonly proven: boolean;
}

export class IntegerProgramme {
  readonly #costs: number[] = [];
  readonly #upper: number[] = [];
  readonly #integer: (0 | 1)[] = [];
  readonly #rowLower: number[] = [];
  readonly #rowUpper: number[] = [];
  readonly #starts: number[] = [0];
  readonly #indices: number[] = [];
  readonly #values: number[] = [];

  /** A variable that is 0 or 1 (0 only where `upper` is). Returns its number. */
  binary(upper: 0 | 1 = 1): number {
    return this.#add(0, upper, 1);
  }

  /** A variable from 0 up to anything, with its cost. */
  continuous(cost: number): number {
    return this.#add(cost, Infinity, 0);
  }

  /** lower <= sum of coefficient * variable <= upper */
  row(lower: number, upper: number, terms: Iterable<readonly [variable: number, coefficient: number]>): void {
    for (const [variable, coefficient] of terms) {
      if (coefficient === 0) continue;
      this.#indices.push(variable);
      this.#values.push(coefficient);
    }
    this.#starts.push(this.#indices.length);
    this.#rowLower.push(lower);
    this.#rowUpper.push(upper);
  }

  /** The least cost, or null where nothing satisfies all rows, or nothing was found within the nodes. */
  async minimise(): Promise<IlpSolution | null> {
    highs ??= loadHighs();
    const solver = await highs;
    const [numCols, numRows] = [this.#costs.length, this.#rowLower.length];
    return solver.withModel((model) => {
      model.options.set({ output_flag: false, random_seed: 0, mip_rel_gap: 0, mip_abs_gap: 1e-9, mip_feasibility_tolerance: 1e-9, mip_max_nodes: MAX_NODES });
      model.passModel({
        numCols, numRows, colCost: this.#costs, colLower: new Float64Array(numCols), colUpper: this.#upper, rowLower: this.#rowLower, rowUpper: this.#rowUpper,
        integrality: Int32Array.from(this.#integer), matrix: { format: "csr", numRows, numCols, starts: this.#starts, indices: this.#indices, values: this.#values },
      });
      model.run();
      const status = model.getModelStatus();
      const proven = status === solver.constants.modelStatus.optimal;
      if (!proven && !(status === solver.constants.modelStatus.solutionLimit && model.info.get("primal_solution_status") === 2)) return null;
      return { values: Float64Array.from(model.getSolution().colValue), proven };
    });
  }

  #add(cost: number, upper: number, integer: 0 | 1): number {
    this.#costs.push(cost);
    this.#upper.push(upper);
    this.#integer.push(integer);
    return this.#costs.length - 1;
  }
}

/** Loaded once: 3.5 MB of WebAssembly. */
let highs: Promise<Highs> | undefined;
