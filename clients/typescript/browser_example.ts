// Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel: in the page of browser.py.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { connect } from "./browser.js";
import { BadRequestSchema } from "./gen/google/rpc/error_details_pb.js";
import { GenerateRequestSchema, GenerationService } from "./gen/thermostat/v1/generation_pb.js";

const client = createClient(GenerationService, connect(new URLSearchParams(location.search).get("server")!));
const print = (...words: string[]) => document.body.append(words.join(" ") + "\n");
const request = {
  input: { case: "text", value: "class Parser:\n    def" },
  policy: { kind: { case: "entropyBand", value: {} } },
  seed: 7n,
  stopping: { maxOutputTokens: 16 },
} satisfies MessageInitShape<typeof GenerateRequestSchema>;

for await (const { event } of client.generate(request)) {
  if (event.case !== "output") continue; // started, finished, and what a later server may send
  for (const { tokenBytes, samplingInfo } of event.value.tokens) {
    const { originalEntropy = NaN, temperature = NaN } = samplingInfo ?? {};
    const text = JSON.stringify(new TextDecoder().decode(tokenBytes)).padEnd(16);
    print(`${text} ${originalEntropy.toFixed(2)} nats  T = ${temperature.toFixed(2)}`);
  }
}

try {
  for await (const _ of client.generate({ ...request, filters: { topP: 1.5 } }));
} catch (error) {
  for (const { fieldViolations } of ConnectError.from(error).findDetails(BadRequestSchema))
    for (const { field, description } of fieldViolations) print("refused:", field, description);
}

const long = { ...request, stopping: { maxOutputTokens: 2000 } };
try {
  for await (const _ of client.generate(long, { timeoutMs: 200 }));
} catch (error) {
  print("deadline:", Code[ConnectError.from(error).code]);
}

const abort = new AbortController();
try {
  for await (const { event } of client.generate(long, { signal: abort.signal }))
    if (event.case === "output") abort.abort();
} catch (error) {
  print("cancel:", Code[ConnectError.from(error).code]);
}
await fetch("/printed", { method: "POST", body: document.body.textContent });
