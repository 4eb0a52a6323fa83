// One sequence through the engine, as what its tokens took in every layer. Owns the timeline. Refuses logits of the head: routing is all that is asked.

import { isOfProducts, productRoutingTap, routingShape } from "../../fleet/product-routing.ts";
import { SequenceRouting } from "../../fleet/sequence-routing.ts";
import type { Engine } from "../../model/engine.ts";
import { RoutingNotes } from "../../passes/routing-notes.ts";

/** Throws RangeError on a sequence of no tokens. */
export async function routeSequence(engine: Engine, ids: readonly number[]): Promise<SequenceRouting> {
  if (ids.length === 0) throw new RangeError("A sequence of no tokens was given; expected at least one.");
  const { config } = engine;
  const routing = new SequenceRouting(routingShape(config));
  const notes = new RoutingNotes(config, ["ids", "weights", "logits"]);
  const taps = isOfProducts(config) ? [productRoutingTap(config, routing)] : notes.taps;
  const timeline = engine.kv.open(ids.length);
  try {
    while (timeline.length < ids.length) {
      await engine.step([{ timeline, ids: ids.slice(timeline.length, timeline.length + engine.maxChunkTokens), logits: "none" }], taps);
      for (const record of notes.take(0)) routing.add(record);
    }
  } finally {
    engine.kv.close(timeline);
  }
  return routing;
}
