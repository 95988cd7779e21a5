// One scenario of the conformance suite; see tests/conformance/conformance.proto.
import { fromJson, toJson, type JsonValue } from "@bufbuild/protobuf";
import { ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { BadRequestSchema } from "./gen/google/rpc/error_details_pb.js";
import { GenerateRequestSchema, GenerateResponseSchema, GenerationService } from "./gen/thermostat/v1/generation_pb.js";

type Scenario = { name: string; request: JsonValue; cancel_after?: number; deadline_seconds?: number };
type Result = { scenario: string; code?: number; message?: string; violations?: JsonValue; responses: JsonValue[] };

async function run(transport: Transport, scenario: Scenario): Promise<Result> {
  const { name, cancel_after = Infinity, deadline_seconds } = scenario;
  const client = createClient(GenerationService, transport);
  const abort = new AbortController();
  const result: Result = { scenario: name, responses: [] };
  const options = { signal: abort.signal, timeoutMs: deadline_seconds && 1000 * deadline_seconds };
  let tokens = 0;
  try {
    for await (const response of client.generate(fromJson(GenerateRequestSchema, scenario.request), options)) {
      if (response.event.case === undefined) continue;
      result.responses.push(toJson(GenerateResponseSchema, response));
      if (response.event.case === "output") tokens += response.event.value.tokens.length;
      if (tokens >= cancel_after) abort.abort();
    }
  } catch (error) {
    const failure = ConnectError.from(error);
    const violations = failure.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations);
    result.code = failure.code;
    result.message = failure.rawMessage;
    result.violations = violations.map(({ field, description }) => ({ field, description }));
  }
  return result;
}

// Runs a suite, one scenario after the other, and prints a line for each.
export async function runAll(transport: Transport, suite: string, print: (line: string) => void) {
  const { scenarios }: { scenarios: Scenario[] } = JSON.parse(suite);
  for (const scenario of scenarios) print(JSON.stringify(await run(transport, scenario)));
}
