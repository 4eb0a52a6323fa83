// Where a reader of a stream stopped: the `id` of every server-sent event, and the `Last-Event-ID` a client sends with the same request when its stream
// has dropped. It holds what makes the reply the same again (its id, its moment, its seed), how many events were read, and in a
// deployment of several lanes or regions who said them last: what that one has kept need not be evaluated again. Refuses other ids.

import { placed, type Place } from "../durable/place-names.ts";
import { invalid } from "./errors.ts";

export interface StreamPosition {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly seed: number;
  readonly nEvents: number;
  /** Null where there is only one who could say it. A place the deployment has no more is passed over. */
  readonly place: Place | null;
}

/** A lane, behind its region where it has one. */
export const placeText = ({ region, lane }: Place): string => `${region === null ? "" : `${region}/`}${lane}`;

export const eventId = ({ id, created, seed, nEvents, place }: StreamPosition): string => `${id}.${created}.${seed}.${nEvents}${place === null ? "" : `.${placeText(place)}`}`;

/** Null without a header. Throws a RequestError 400 where it is no id of this server's events. */
export function streamPosition(lastEventId: string | null): StreamPosition | null {
  if (lastEventId === null) return null;
  const [, id, created, seed, nEvents, region = "", lane] = /^([a-z]{3,8}[_-][0-9a-f]{32})\.(\d{10})\.(-?\d{1,16})\.(\d{1,9})(?:\.(?:([a-z-]{2,8})\/)?(\d{1,4}))?$/.exec(lastEventId) ?? [];
  // Beyond 2^53 a number would be another one than the id says.
  if (id === undefined || !Number.isSafeInteger(Number(seed))) throw invalid(null, `The header Last-Event-ID is ${JSON.stringify(lastEventId.slice(0, 100))}, expected the id of an event of this server's streams.`, "invalid_event_id");
  return { id, created: Number(created), seed: Number(seed), nEvents: Number(nEvents), place: lane === undefined ? null : placed(region, lane) };
}
