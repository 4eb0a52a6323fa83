// An S3-compatible bucket as a ByteSource: HttpSource with requests signed by version 4 (aws4fetch). Owns addresses: buckets of AWS by host name,
// others, and names with dots, by path. Refuses to know where keys come from (cli/remote-source.ts reads the environment).

import { AwsClient } from "aws4fetch";
import { HttpSource, type HttpSourceOptions } from "./http-source.ts";

export interface S3Bucket {
  readonly bucket: string;
  /** Folder in the bucket, "" for all of it. */
  readonly prefix: string;
  readonly region: string;
  /** Address of the service, such as https://<account>.r2.cloudflarestorage.com; null for AWS. */
  readonly endpoint: URL | null;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** The folder's address. */
export function s3Address({ bucket, prefix, region, endpoint }: Pick<S3Bucket, "bucket" | "prefix" | "region" | "endpoint">): URL {
  const path = prefix.split("/").filter((part) => part !== "").map((part) => `${encodeURIComponent(part)}/`).join("");
  if (endpoint !== null) return new URL(`${endpoint.pathname.replace(/\/$/, "")}/${bucket}/${path}`, endpoint);
  if (bucket.includes(".")) return new URL(`https://s3.${region}.amazonaws.com/${bucket}/${path}`);
  return new URL(`https://${bucket}.s3.${region}.amazonaws.com/${path}`);
}

export function s3Source(where: S3Bucket, options: Pick<HttpSourceOptions, "wait"> = {}): HttpSource {
  const { accessKeyId, secretAccessKey, sessionToken, region, bucket, prefix } = where;
  // HttpSource retries; a client that did so too would multiply the attempts.
  const client = new AwsClient({ accessKeyId, secretAccessKey, region, service: "s3", retries: 0, ...(sessionToken === undefined ? {} : { sessionToken }) });
  return new HttpSource(s3Address(where), {
    ...options, description: `s3://${bucket}${prefix === "" ? "" : `/${prefix}`}`, fetch: (url, { headers }) => client.fetch(url, { headers }),
  });
}
