// The matrix fault x layer x step (sim/fault-matrix.ts), with and without a replica: how many cells there are, that each fault strikes exactly where its cell says
// and leaves its traces, and that every answer is that of one machine. Owns the figures: adding a fault, a layer or a step means changing them here.

import { beforeAll, describe, expect, it } from "vitest";
import { type Cell, type CellReport, CELLS, MATRIX_FAULT_NAMES, MATRIX_REQUEST, type MatrixFaultName, runCell } from "../../../sim/fault-matrix.ts";
import { Simulator } from "../../../sim/run.ts";

/** Faults after which an answer may end with one clean error instead: none. */
const MAY_FAIL: readonly MatrixFaultName[] = [];
/** What the object answers as before: nobody else notices. */
const UNNOTICED: readonly MatrixFaultName[] = ["evicted"];

let simulator: Simulator;
let right: readonly string[];
const calm = new Map<number, CellReport>();
const reports: { readonly cell: Cell; readonly report: CellReport }[] = [];

beforeAll(async () => {
  simulator = await Simulator.open();
  right = await simulator.oracle.answerTo(MATRIX_REQUEST);
  for (const replicas of [1, 2] as const) calm.set(replicas, await runCell(simulator.grounds, replicas, null));
  for (const cell of CELLS) reports.push({ cell, report: await runCell(simulator.grounds, cell.replicas, cell) });
}, 120_000);

const nameOf = ({ fault, layer, step, replicas }: Cell): string => `${fault}, layer ${layer}, step ${step}, held ${replicas === 1 ? "once" : "twice"}`;
const where = (isWrong: (of: { readonly cell: Cell; readonly report: CellReport }) => boolean): string[] => reports.filter(isWrong).map(({ cell }) => nameOf(cell));

describe("the matrix of faults", () => {
  it("has 16 faults at 3 layers of 9 steps, with and without a replica", () => {
    expect(MATRIX_FAULT_NAMES).toEqual([
      "killed", "hung", "slow", "evicted", "memory reset", "overloaded", "wrong epoch", "wrong revision", "request damaged", "reply damaged", "header damaged", "socket died silently",
      "cache lost", "store answered 5xx", "store slow", "orchestrator restarted",
    ]);
    expect(new Set(CELLS.map(nameOf)).size).toBe(864);
    expect(reports).toHaveLength(864);
  });

  it("begins from runs in which nothing happens", () => {
    expect(right).toHaveLength(MATRIX_REQUEST.maxTokens + 1);
    for (const { answer, frames, problem } of calm.values()) {
      expect(problem).toBeNull();
      expect(answer).toEqual(right);
      expect(frames.every(({ attempt }) => attempt === 0)).toBe(true);
      expect([...new Set(frames.map(({ step, layer }) => `${step} ${layer}`))]).toEqual(Array.from({ length: 27 }, (_, i) => `${Math.floor(i / 3)} ${i % 3}`));
    }
  });

  it("strikes at its layer and step and nowhere else", () => {
    expect(where(({ report: { struckAfter } }) => struckAfter === null)).toEqual([]);
    expect(where(({ cell, report: { frames, struckAfter } }) => {
      const last = frames[struckAfter! - 1]!;
      return last.step !== cell.step || last.layer !== cell.layer;
    })).toEqual([]);
  });

  it("changes nothing before, and something after", () => {
    const halves = ({ frames }: CellReport, at: number): [string, string] => [JSON.stringify(frames.slice(0, at)), JSON.stringify(frames.slice(at))];
    const differing = (half: 0 | 1) => ({ cell, report }: { readonly cell: Cell; readonly report: CellReport }): boolean =>
      halves(report, report.struckAfter!)[half] !== halves(calm.get(cell.replicas)!, report.struckAfter!)[half];
    expect(where(differing(0))).toEqual([]);
    // Of a fault in the last round no frame is left that could tell, except one that is sent again.
    const isLast = ({ layer, step }: Cell): boolean => layer === 2 && step === 8;
    expect(where((of) => !differing(1)(of) && !isLast(of.cell) && !UNNOTICED.includes(of.cell.fault))).toEqual([]);
  });

  it("leaves the traces of its fault", () => {
    expect(reports.flatMap(({ cell, report: { unseen } }) => (unseen === null ? [] : [`${nameOf(cell)}: ${unseen}`]))).toEqual([]);
  });

  it("gives the answer of one machine, to the bit", () => {
    expect(reports.flatMap(({ cell, report: { error } }) => (error === null || MAY_FAIL.includes(cell.fault) ? [] : [`${nameOf(cell)}: ${error}`]))).toEqual([]);
    expect(where(({ report: { answer, error } }) => error === null && answer.join("\n") !== right.join("\n"))).toEqual([]);
    expect(reports.filter(({ report: { error } }) => error !== null)).toHaveLength(0);
  });

  it("leaves nothing behind, and the next answer right", () => {
    expect(reports.flatMap(({ cell, report: { problem } }) => (problem === null ? [] : [`${nameOf(cell)}: ${problem}`]))).toEqual([]);
  });

  it("rebuilds timelines of a dead orchestrator from the tokens that the reader kept", () => {
    const restarts = reports.filter(({ cell: { fault } }) => fault === "orchestrator restarted");
    expect(where(({ cell: { fault, step }, report: { resumedWith, tokensBefore } }) => fault === "orchestrator restarted" && (resumedWith! < tokensBefore || resumedWith! > step))).toEqual([]);
    expect(new Set(restarts.map(({ report: { resumedWith } }) => resumedWith))).toEqual(new Set([0, 1, 2, 3, 4, 5, 6, 7, 8]));
  });
});
