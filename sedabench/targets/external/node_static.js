// A static HTTP server on Node's own http module, as most people would write it: a peer.
//
//     node node_static.js DOCROOT PORT
//
// Files stay in memory after their first request, up to CACHE_BYTES; a file
// beyond that is read anew.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");

const CACHE_BYTES = 64_000_000;
const BACKLOG = 65535;

const root = fs.realpathSync(process.argv[2]);
const port = Number(process.argv[3]);
const pages = new Map();
let cachedBytes = 0;

function load(url) {
  try {
    const file = fs.realpathSync(path.join(root, decodeURIComponent(url)));
    if (!file.startsWith(root + path.sep)) return undefined;
    const body = fs.readFileSync(file);
    const changed = fs.statSync(file);
    const headers = {
      "Content-Type": file.endsWith(".json") ? "application/json" : "application/octet-stream",
      "Content-Length": body.length,
      "Last-Modified": changed.mtime.toUTCString(),
      ETag: `"${body.length.toString(16)}-${Math.round(changed.mtimeMs).toString(16)}"`,
    };
    const page = { headers, body };
    if (cachedBytes + body.length <= CACHE_BYTES) {
      cachedBytes += body.length;
      pages.set(url, page);
    }
    return page;
  } catch {
    return undefined;
  }
}

const server = http.createServer((request, response) => {
  if (request.method !== "GET") {
    response.writeHead(405, { Allow: "GET", "Content-Length": 0 }).end();
    return;
  }
  const query = request.url.indexOf("?");
  const url = query < 0 ? request.url : request.url.slice(0, query);
  const page = pages.get(url) ?? load(url);
  if (page === undefined) {
    response.writeHead(404, { "Content-Length": 0 }).end();
    return;
  }
  response.writeHead(200, page.headers).end(page.body);
});

server.keepAliveTimeout = 600_000;
server.requestTimeout = 0;
server.headersTimeout = 0;
server.listen({ port, host: "127.0.0.1", backlog: BACKLOG });
