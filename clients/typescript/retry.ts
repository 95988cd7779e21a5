// The retries of the service config that all clients share, for Connect, which has no service config. Trying again is
// safe: until the first token the server sends nothing, and once it has sent something this no longer catches.
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { createAsyncIterable } from "@connectrpc/connect/protocol";

type ServiceConfig = {
  methodConfig: {
    retryPolicy: { maxAttempts: number; initialBackoff: string; maxBackoff: string; backoffMultiplier: number };
  }[];
};

// Waits for the first message of a stream: in a browser a refusal comes where messages do.
async function opened<T extends { message: AsyncIterable<unknown> }>(response: T): Promise<T> {
  const messages = response.message[Symbol.asyncIterator]();
  let next = await messages.next();
  async function* all() {
    try {
      for (; !next.done; next = await messages.next()) yield next.value;
    } finally {
      await messages.return?.();
    }
  }
  return { ...response, message: all() };
}

export function retry({ methodConfig }: ServiceConfig): Interceptor {
  const { maxAttempts, initialBackoff, maxBackoff, backoffMultiplier } = methodConfig[0].retryPolicy;
  return (next) => async (request) => {
    const sent = []; // of a stream, what was sent: it can be read only once, and no method here takes more than one message
    if (request.stream) for await (const message of request.message) sent.push(message);
    for (let attempt = 1, wait = parseFloat(initialBackoff); ; attempt++, wait *= backoffMultiplier) {
      try {
        const response = await next(request.stream ? { ...request, message: createAsyncIterable(sent) } : request);
        return response.stream ? await opened(response) : response;
      } catch (error) {
        if (ConnectError.from(error).code !== Code.Unavailable || attempt === maxAttempts) throw error;
        const seconds = Math.min(wait, parseFloat(maxBackoff)) * Math.random();
        await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
        request.signal.throwIfAborted();
      }
    }
  };
}
