// The page's files and what a browser may do with them: run and load what comes from here, talk to this server, and nothing else.
// Owns the list of public assets; everything else in the assets folder (the packs) is for the shards only. Refuses inline script and style,
// other origins, frames around the page, and markup made from strings.

import { secureHeaders } from "hono/secure-headers";
import { RequestError } from "./errors.ts";

export const PAGE_FILES = ["/", "/index.html", "/app.js", "/style.css", "/icon.svg"] as const;

export const pageHeaders = secureHeaders({
  contentSecurityPolicy: {
    defaultSrc: ["'none'"], scriptSrc: ["'self'"], styleSrc: ["'self'"], imgSrc: ["'self'"], connectSrc: ["'self'"],
    baseUri: ["'none'"], formAction: ["'none'"], frameAncestors: ["'none'"], requireTrustedTypesFor: ["'script'"], trustedTypes: ["'none'"],
  },
  xFrameOptions: "DENY",
  // Whether a domain and all below it speak HTTPS only is its owner's decision, not this program's.
  strictTransportSecurity: false,
});

export async function pageFile(assets: Fetcher | undefined, request: Request): Promise<Response> {
  if (assets === undefined) throw new RequestError({ status: 404, code: "no_page", message: "This deployment has no page; the API is at /v1." });
  const response = await assets.fetch(request);
  return new Response(response.body, response); // a copy, since the headers of a fetched response cannot be changed
}
