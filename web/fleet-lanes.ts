// The rest of the fleet: orchestrators of a region with their free KV memory, stages of a ring, round trips between regions, recent faults.
// Owns these tables. Refuses shards and changes.

import { ago, byteSize, count, counted, element, milliseconds } from "./figures.ts";
import type { FleetSight, Lane } from "./fleet-sight.ts";
import { placeOf } from "./places.ts";
import { type Cell, type Row, table } from "./tables.ts";
import type { FleetReply } from "../worker/wire-types.ts";

export const SAYING: Readonly<Record<FleetReply["status"], string>> = {
  cold: "Asleep", warming: "Loading", ready: "Ready", degraded: "A shard is away", failed: "Could not load",
};

/** Ready, as in a shard's table. */
const DOTS: Readonly<Record<FleetReply["status"], string>> = { cold: "cold", warming: "loading", ready: "active", degraded: "away", failed: "failed" };

export function laneTable({ directory, lanes }: FleetSight, nowMs: number): Node[] {
  const plan = directory?.plan ?? null;
  const rows = lanes.map(({ lane, name, status }): Row => {
    const report = directory?.lanes.find((one) => one.name === name);
    const isBehind = report !== undefined && plan !== null && report.epoch < plan.epoch;
    const isolate = status?.isolate ?? null;
    return { key: name, cells: [
      { text: String(lane), detail: name },
      status === null ? { text: "Cannot be reached", state: "failed" } : { text: SAYING[status.status], state: DOTS[status.status], detail: status.message ?? "" },
      status === null ? { text: "–" } : { text: count(status.generations.active), detail: status.generations.queued === 0 ? "none waiting" : `${count(status.generations.queued)} waiting` },
      report?.freeKvPositions == null ? { text: "–", detail: "not reported yet" } : { text: counted(report.freeKvPositions, "token"), detail: report.reportedMs === null ? "" : ago(nowMs - report.reportedMs) },
      isolate === null ? { text: "–" } : { text: byteSize(isolate.usedBytes), detail: `of ${byteSize(isolate.limitBytes)}` },
      { text: String(report?.epoch ?? status?.epoch ?? "–"), detail: isBehind ? `${plan.epoch} is in force` : "" },
    ] };
  });
  return [element("h2", "", "Orchestrators"), table("Orchestrators", ["Lane", "State", "Replies", "Free KV memory", "Isolate", "Epoch"], rows, "lanes"), ...lanes.flatMap(stageTable)];
}

/** Of a model whose trunk is spread over several objects: those after the first. */
function stageTable({ lane, status }: Lane): Node[] {
  const stages = status?.stages ?? [];
  if (stages.length === 0) return [];
  const heading = element("h2", "", `Stages of lane ${lane} `);
  heading.append(element("span", "hint", "after the first, which is the orchestrator itself"));
  return [heading, table(`Stages of lane ${lane}`, ["Stage", "State", "Loaded"], stages.map(({ name, loadedBytes, totalBytes, isReady }, i) => ({
    key: name, cells: [{ text: String(i + 1), detail: name }, { text: isReady ? "ready" : "loading", state: isReady ? "active" : "loading" }, { text: byteSize(loadedBytes), detail: totalBytes === 0 ? "" : `of ${byteSize(totalBytes)}` }],
  })))];
}

export function roundTripTable({ roundTrips }: FleetReply): Node[] {
  if (roundTrips.length === 0) return [];
  const places = (end: "from" | "to"): string[] => [...new Set(roundTrips.map((trip) => trip[end]))];
  const columns = places("to");
  const rows = places("from").map((from): Row => ({ key: from, cells: [{ text: from, detail: placeOf(from)[1] }, ...columns.map((to): Cell => {
    const trip = roundTrips.find((one) => one.from === from && one.to === to);
    return trip === undefined ? { text: "–" } : { text: milliseconds(Math.round(trip.ms)), detail: ago(trip.ageMs) };
  })] }));
  const heading = element("h2", "", "Round trips ");
  heading.append(element("span", "hint", "there and back between regions, as the fleet measures them"));
  return [heading, table("Round trips between regions", ["From", ...columns.map((to) => `to ${to}`)], rows, "trips")];
}

/** As many faults as are read at once; the others are folded. */
const SHOWN_FAULTS = 5;

export function faultTable({ directory }: FleetSight, nowMs: number): Node[] {
  const heading = element("h2", "", "Recent faults");
  if (directory === null) return [];
  if (directory.faults.length === 0) return [heading, element("p", "hint", "None.")];
  const rows = directory.faults.map(({ atMs, shard, cause }, i): Row => ({ key: `${atMs} ${shard} ${i}`, cells: [{ text: ago(nowMs - atMs), detail: new Date(atMs).toLocaleTimeString() }, { text: String(shard) }, { text: cause }] }));
  const columns = ["When", "Shard", "Cause"] as const;
  const made: Node[] = [heading, table("Recent faults", columns, rows.slice(0, SHOWN_FAULTS), "faults")];
  if (rows.length > SHOWN_FAULTS) {
    const folded = element("details", "earlier");
    folded.append(element("summary", "", `${count(rows.length - SHOWN_FAULTS)} more`), table("Earlier faults", columns, rows.slice(SHOWN_FAULTS), "faults"));
    made.push(folded);
  }
  return made;
}
