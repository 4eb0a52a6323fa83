// What is known of the model's routing beside the reply, asked for once the model is ready: its map, and the profiles the key may use. Owns what is asked where, and what follows when something does
// not come: the page goes without, and says so of what the server said it had.

import { profile, profiles, routingMap } from "./api.ts";
import type { HeatViews } from "./heat-views.ts";
import { createSteering, type Steering, type SteeringOptions } from "./steering.ts";
import type { ModelObject } from "../worker/wire-types.ts";

export interface KnownRoutingOptions extends Pick<SteeringOptions, "layerNames" | "onChange" | "onProblem"> {
  readonly views: HeatViews;
  readonly key: string;
}

/** Fills `host` with what steers, and gives the views their map. */
export async function knownRouting(host: HTMLElement, model: ModelObject, { views, key, onProblem, ...options }: KnownRoutingOptions): Promise<Steering> {
  const { routing_map: isMapped, interventions, product_experts: halves } = model.moe;
  const map = isMapped ? routingMap(key).catch((cause: unknown) => void onProblem(cause)) : undefined;
  // A deployment without a directory keeps none, which is no fault of the page's reader.
  const list = interventions.length === 0 && halves === undefined ? undefined : await profiles(key).catch(() => undefined);
  const found = await map;
  if (found !== undefined) views.setMap(found);
  return createSteering(host, { ...options, model, profiles: list?.data ?? [], read: (name) => profile(name, key), onProblem });
}
