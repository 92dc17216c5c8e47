// What an Edge Function gets from Deno, as far as the one in docs/migrate.md uses it: `Deno.env.get` and `Deno.serve`.
import http from "node:http";
import { once } from "node:events";

async function body(incoming) {
  const parts = [];
  for await (const part of incoming) parts.push(part);
  return parts.length ? Buffer.concat(parts) : undefined;
}

async function serve(handler) {
  const server = http.createServer(async (incoming, outgoing) => {
    const { method, headers, url } = incoming;
    const request = new Request(`http://127.0.0.1${url}`, { method, headers, body: await body(incoming) });
    const response = await handler(request);
    outgoing.writeHead(response.status, Object.fromEntries(response.headers));
    outgoing.end(Buffer.from(await response.arrayBuffer()));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  console.log(server.address().port);
}

globalThis.Deno = { env: { get: (name) => process.env[name] }, serve };
