// What @supabase/lite 0.10.0 lacks of Supabase; loaded before it.
// - It lets no page of another origin call it (CORS).
// - It answers a request for a signed address with `signedUrl` and the path from /storage/v1 on, where Supabase's Storage
//   says `signedURL` and the path from /object on, which its clients insist on.
// - It serves objects by /object/{bucket} alone, and not by /object/authenticated/{bucket}, the route for known callers.
// - When it is first asked for rows it grants everyone everything in each schema with row-level security; Supabase grants what
//   is new when it is made, and what was revoked since stays revoked.
// - It sends each setting of a request in a round trip of its own, eleven in all; sent together they are three, and a request
//   takes three quarters of the processor time.
import http from "node:http";
import { registerHooks } from "node:module";

const SECURED = "WHERE c.relrowsecurity = true";
const BETWEEN_SETTINGS = "`.execute(e),await sql`SELECT set_config(";

registerHooks({
  load(url, context, next) {
    const loaded = next(url, context);
    if (!url.endsWith("/PostgresConnection.js")) return loaded;
    const source = loaded.source.toString();
    if (!source.includes(SECURED)) throw new Error("@supabase/lite has changed: see where it grants");
    const granted = source.replace(SECURED, `${SECURED} AND n.nspname NOT IN ('public', 'generation')`);
    return { ...loaded, source: granted.replaceAll(BETWEEN_SETTINGS, ", set_config(") };
  },
});

const SIGN = /^\/storage\/v1\/object\/sign\//;
const AUTHENTICATED = /^(\/storage\/v1\/object\/)authenticated\//;
const emit = http.Server.prototype.emit;

http.Server.prototype.emit = function (event, request, response) {
  if (event !== "request") return emit.apply(this, arguments);
  allow(request, response);
  if (request.method === "OPTIONS") return response.writeHead(204).end();
  if (request.method === "GET") request.url = request.url.replace(AUTHENTICATED, "$1");
  if (request.method === "POST" && SIGN.test(request.url)) fixSignedUrl(response);
  return emit.apply(this, arguments);
};

function allow(request, response) {
  response.setHeader("access-control-allow-origin", "*");
  response.setHeader("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE");
  response.setHeader("access-control-allow-headers", request.headers["access-control-request-headers"] ?? "*");
}

function fixSignedUrl(response) {
  const { writeHead, end } = response;
  const chunks = [];
  let status, headers;
  response.writeHead = (code, ...rest) => {
    [status, headers] = [code, rest.at(-1)];
    return response;
  };
  response.write = (chunk) => chunks.push(Buffer.from(chunk)) > 0;
  response.end = (chunk) => {
    if (chunk && typeof chunk !== "function") chunks.push(Buffer.from(chunk));
    const body = Buffer.from(renamed(Buffer.concat(chunks).toString()));
    const kept = Object.entries(headers ?? {}).filter(([name]) => !/^(content-length|transfer-encoding)$/i.test(name));
    writeHead.call(response, status ?? response.statusCode, { ...Object.fromEntries(kept), "content-length": body.length });
    return end.call(response, body);
  };
}

function renamed(text) {
  const answer = JSON.parse(text);
  if (typeof answer.signedUrl !== "string") return text;
  return JSON.stringify({ signedURL: answer.signedUrl.replace(/^\/storage\/v1/, "") });
}
