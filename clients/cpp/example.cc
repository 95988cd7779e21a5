// Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel.
#include <chrono>
#include <cstdio>
#include <iostream>

#include "connect.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "thermostat/v1/generation.grpc.pb.h"

using namespace thermostat::v1;

template <typename Each>
grpc::Status Generate(GenerationService::Stub& client, grpc::ClientContext& context, const GenerateRequest& request,
                      Each each) {
  auto reader = client.Generate(&context, request);
  for (GenerateResponse response; reader->Read(&response);)
    for (const Token& token : response.output().tokens()) each(token);
  return reader->Finish();
}

int main(int, char** argv) {
  auto client = GenerationService::NewStub(Connect(argv[1]));
  GenerateRequest request;
  request.set_text("class Parser:\n    def");
  request.mutable_policy()->mutable_entropy_band();
  request.set_seed(7);
  request.mutable_stopping()->set_max_output_tokens(16);
  const auto ignore = [](const Token&) {};

  grpc::ClientContext stream;
  Generate(*client, stream, request, [](const Token& token) {
    const SamplingInfo& info = token.sampling_info();
    std::printf("%-16s %5.2f nats  T = %.2f\n", ("\"" + token.token_bytes() + "\"").c_str(), info.original_entropy(),
                info.temperature());
  });

  grpc::ClientContext refused;
  request.mutable_filters()->set_top_p(1.5);
  google::rpc::Status status;
  status.ParseFromString(Generate(*client, refused, request, ignore).error_details());
  google::rpc::BadRequest bad;
  for (const auto& detail : status.details())
    if (detail.UnpackTo(&bad))
      for (const auto& violation : bad.field_violations())
        std::cout << "refused: " << violation.field() << " " << violation.description() << "\n";

  request.clear_filters();
  request.mutable_stopping()->set_max_output_tokens(2000);
  grpc::ClientContext deadline;
  deadline.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  std::cout << "deadline: " << Generate(*client, deadline, request, ignore).error_message() << "\n";

  grpc::ClientContext cancel;
  const auto once = [&](const Token&) { cancel.TryCancel(); };
  std::cout << "cancel: " << Generate(*client, cancel, request, once).error_message() << "\n";
}
