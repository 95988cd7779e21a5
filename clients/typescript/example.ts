// Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { BadRequestSchema } from "./gen/google/rpc/error_details_pb.js";
import { GenerateRequestSchema, GenerationService } from "./gen/thermostat/v1/generation_pb.js";
import { connect } from "./node.js";

const client = createClient(GenerationService, connect(process.argv[2]));
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
    const text = JSON.stringify(Buffer.from(tokenBytes).toString()).padEnd(16);
    console.log(`${text} ${originalEntropy.toFixed(2)} nats  T = ${temperature.toFixed(2)}`);
  }
}

try {
  for await (const _ of client.generate({ ...request, filters: { topP: 1.5 } }));
} catch (error) {
  for (const { fieldViolations } of ConnectError.from(error).findDetails(BadRequestSchema))
    for (const { field, description } of fieldViolations) console.log("refused:", field, description);
}

const long = { ...request, stopping: { maxOutputTokens: 2000 } };
try {
  for await (const _ of client.generate(long, { timeoutMs: 200 }));
} catch (error) {
  console.log("deadline:", Code[ConnectError.from(error).code]);
}

// Leaving the loop by `break` would not tell the server: abort.
const abort = new AbortController();
try {
  for await (const { event } of client.generate(long, { signal: abort.signal }))
    if (event.case === "output") abort.abort();
} catch (error) {
  console.log("cancel:", Code[ConnectError.from(error).code]);
}
