// The conformance program of the C++ client: conformance ADDRESS SUITE.
#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <iostream>

#include "conformance.pb.h"
#include "connect.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "thermostat/v1/generation.grpc.pb.h"

using google::protobuf::util::JsonStringToMessage;
using google::protobuf::util::MessageToJsonString;
using thermostat::conformance::v1::Result;
using thermostat::conformance::v1::Scenario;
using thermostat::conformance::v1::Suite;
using thermostat::v1::GenerateResponse;
using thermostat::v1::GenerationService;

void Fail(const grpc::Status& failure, Result& result) {
  result.set_code(failure.error_code());
  result.set_message(failure.error_message());
  google::rpc::Status status;
  status.ParseFromString(failure.error_details());
  google::rpc::BadRequest bad;
  for (const auto& detail : status.details()) {
    if (!detail.UnpackTo(&bad)) continue;
    for (const auto& violation : bad.field_violations()) {
      auto* added = result.add_violations();
      added->set_field(violation.field());
      added->set_description(violation.description());
    }
  }
}

Result Run(GenerationService::Stub& client, const Scenario& scenario) {
  grpc::ClientContext context;
  if (scenario.deadline_seconds() > 0) {
    const std::chrono::microseconds wait(static_cast<int64_t>(1e6 * scenario.deadline_seconds()));
    context.set_deadline(std::chrono::system_clock::now() + wait);
  }
  Result result;
  result.set_scenario(scenario.name());
  auto reader = client.Generate(&context, scenario.request());
  int tokens = 0;
  for (GenerateResponse response; reader->Read(&response);) {
    if (response.event_case() == GenerateResponse::EVENT_NOT_SET) continue;
    *result.add_responses() = response;
    tokens += response.output().tokens_size();
    if (scenario.cancel_after() > 0 && tokens >= scenario.cancel_after()) context.TryCancel();
  }
  if (const grpc::Status status = reader->Finish(); !status.ok()) Fail(status, result);
  return result;
}

int main(int, char** argv) {
  auto client = GenerationService::NewStub(Connect(argv[1]));
  Suite suite;
  if (!JsonStringToMessage(ReadFile(argv[2]), &suite).ok()) return 1;
  for (const Scenario& scenario : suite.scenarios()) {
    std::string line;
    if (!MessageToJsonString(Run(*client, scenario), &line).ok()) return 1;
    std::cout << line << std::endl;
  }
}
