// Models that are not on this machine: https:// addresses and s3:// buckets of the command line, as ByteSources. Owns reading AWS_* from the
// environment and the names of models by their addresses. Refuses other schemes, and buckets without keys, saying which variable is missing.

import { type ByteSource, SourceError } from "../formats/byte-source.ts";
import { HttpSource } from "../formats/http-source.ts";
import { ReadAheadSource } from "../formats/read-ahead-source.ts";
import { s3Source } from "../formats/s3-source.ts";

export interface RemoteModel {
  readonly source: ByteSource;
  /** The .gguf file in the source, or null where the address is a folder. */
  readonly file: string | null;
  /** Of the folder, for manifests. */
  readonly name: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** True for addresses, false for paths. */
export const isRemote = (model: string): boolean => /^[a-z][a-z0-9+.-]+:\/\//i.test(model);

/** Opens nothing yet. Throws SourceError when the address is not one of those that can be read. */
export function remoteModel(address: string, environment: Environment): RemoteModel {
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    throw new SourceError(`${address} is no valid address, expected https://..., http://... or s3://bucket/...`);
  }
  if (url.protocol === "http:" || url.protocol === "https:") return httpModel(url);
  if (url.protocol === "s3:") return s3Model(url, environment);
  throw new SourceError(`${address} has the scheme ${url.protocol}//, expected https://, http:// or s3://.`);
}

function httpModel(url: URL): RemoteModel {
  const { folder, file } = splitPath(decodeURIComponent(url.pathname));
  const base = Object.assign(new URL(url), { pathname: folder.split("/").map(encodeURIComponent).join("/"), hash: "" });
  // On huggingface.co the folder's own name is that of a branch: <owner>/<model>/resolve/main.
  const name = /^\/[^/]+\/([^/]+)\/resolve\/[^/]+(?:\/|$)/.exec(folder)?.[1] ?? lastPart(folder) ?? url.hostname;
  return { source: new ReadAheadSource(new HttpSource(base)), file, name };
}

function s3Model(url: URL, environment: Environment): RemoteModel {
  const need = (name: string): string => {
    const value = environment[name];
    if (value === undefined || value === "") throw new SourceError(`${url.href}: the environment variable ${name} is not set; buckets are read with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.`);
    return value;
  };
  const endpointText = environment["AWS_ENDPOINT_URL_S3"] ?? environment["AWS_ENDPOINT_URL"];
  const endpoint = endpointText === undefined || endpointText === "" ? null : URL.parse(endpointText);
  if (endpoint === null && endpointText !== undefined && endpointText !== "") throw new SourceError(`AWS_ENDPOINT_URL is ${endpointText}, expected an address such as https://s3.example.com.`);
  const region = environment["AWS_REGION"] ?? environment["AWS_DEFAULT_REGION"] ?? (endpoint === null ? need("AWS_REGION") : "auto");
  const { folder, file } = splitPath(decodeURIComponent(url.pathname));
  const sessionToken = environment["AWS_SESSION_TOKEN"];
  const source = s3Source({
    bucket: url.hostname, prefix: folder.replace(/^\/|\/$/g, ""), region, endpoint,
    accessKeyId: need("AWS_ACCESS_KEY_ID"), secretAccessKey: need("AWS_SECRET_ACCESS_KEY"), ...(sessionToken === undefined || sessionToken === "" ? {} : { sessionToken }),
  });
  return { source: new ReadAheadSource(source), file, name: lastPart(folder) ?? url.hostname };
}

/** The folder of a path, and the .gguf file at its end if it names one. */
function splitPath(path: string): { folder: string; file: string | null } {
  if (!path.endsWith(".gguf")) return { folder: path.replace(/\/$/, ""), file: null };
  const slash = path.lastIndexOf("/");
  return { folder: path.slice(0, slash), file: path.slice(slash + 1) };
}

const lastPart = (folder: string): string | undefined => folder.split("/").filter((part) => part !== "").at(-1);
