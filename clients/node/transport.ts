// How this client connects: Connect's gRPC transport, and the retries of the service config that all clients share.
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { createAsyncIterable } from "@connectrpc/connect/protocol";
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

const { methodConfig } = JSON.parse(readFileSync("../service_config.json", "utf8"));
const { maxAttempts, initialBackoff, maxBackoff, backoffMultiplier } = methodConfig[0].retryPolicy;

// Connect has no service config. Trying again is safe: until the first token the server sends nothing, and once it has
// sent something this no longer catches.
const retry: Interceptor = (next) => async (request) => {
  const sent = []; // of a stream, what was sent: it can be read only once, and no method here takes more than one message
  if (request.stream) for await (const message of request.message) sent.push(message);
  for (let attempt = 1, wait = parseFloat(initialBackoff); ; attempt++, wait *= backoffMultiplier) {
    try {
      return await next(request.stream ? { ...request, message: createAsyncIterable(sent) } : request);
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable || attempt === maxAttempts) throw error;
      await setTimeout(1000 * Math.min(wait, parseFloat(maxBackoff)) * Math.random(), null, { signal: request.signal });
    }
  }
};

export const connect = (address: string) =>
  createGrpcTransport({ baseUrl: `http://${address}`, interceptors: [retry] });
