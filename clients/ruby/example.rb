# frozen_string_literal: true

# Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel.
$LOAD_PATH.unshift("#{__dir__}/build")
require 'google/protobuf/well_known_types' # or the details of an error stay packed
require 'google/rpc/error_details_pb'
require 'thermostat/v1/generation_services_pb'

include Thermostat::V1 # rubocop:disable Style/MixinUsage

config = { 'grpc.service_config' => File.read("#{__dir__}/../service_config.json") }
client = GenerationService::Stub.new(ARGV.fetch(0), :this_channel_is_insecure, channel_args: config)
request = GenerateRequest.new(
  text: "class Parser:\n    def",
  policy: Policy.new(entropy_band: EntropyBandPolicy.new),
  seed: 7,
  stopping: Stopping.new(max_output_tokens: 16)
)

client.generate(request).each do |response|
  response.output&.tokens&.each do |token|
    info = token.sampling_info
    text = String.new(token.token_bytes, encoding: 'UTF-8').inspect
    puts format('%-16s %5.2f nats  T = %.2f', text, info.original_entropy, info.temperature)
  end
end

begin
  request.filters = Filters.new(top_p: 1.5)
  client.generate(request).to_a
rescue GRPC::InvalidArgument => e
  bad = e.to_rpc_status.details.find { |detail| detail.is(Google::Rpc::BadRequest) }
  bad.unpack(Google::Rpc::BadRequest).field_violations.each { |v| puts "refused: #{v.field} #{v.description}" }
end

request.filters = nil
request.stopping.max_output_tokens = 2000
begin
  client.generate(request, deadline: Time.now + 0.2).to_a
rescue GRPC::DeadlineExceeded => e
  puts "deadline: #{e.class}"
end

operation = client.generate(request, return_op: true)
begin
  operation.execute.each { |response| operation.cancel if response.output }
rescue GRPC::Cancelled => e
  puts "cancel: #{e.class}"
end
