# frozen_string_literal: true

# The conformance program of the Ruby client: ruby conformance.rb ADDRESS SUITE
$LOAD_PATH.unshift("#{__dir__}/build")
require 'google/protobuf/well_known_types'
require 'google/rpc/error_details_pb'
require 'conformance_pb'
require 'thermostat/v1/generation_services_pb'

include Thermostat::Conformance::V1 # rubocop:disable Style/MixinUsage

def violations(error)
  details = error.to_rpc_status&.details.to_a.select { |detail| detail.is(Google::Rpc::BadRequest) }
  found = details.flat_map { |detail| detail.unpack(Google::Rpc::BadRequest).field_violations.to_a }
  found.map { |each| Violation.new(field: each.field, description: each.description) }
end

def run(client, scenario)
  result = Result.new(scenario: scenario.name)
  tokens = 0
  deadline = Time.now + scenario.deadline_seconds if scenario.deadline_seconds.positive?
  operation = client.generate(scenario.request, deadline:, return_op: true)
  operation.execute.each do |response|
    result.responses << response if response.event
    tokens += response.output.tokens.size if response.output
    operation.cancel if scenario.cancel_after.positive? && tokens >= scenario.cancel_after
  end
  result
rescue GRPC::BadStatus => e
  result.code = e.code
  result.message = e.details
  result.violations += violations(e)
  result
end

config = { 'grpc.service_config' => File.read("#{__dir__}/../service_config.json") }
client = Thermostat::V1::GenerationService::Stub.new(ARGV.fetch(0), :this_channel_is_insecure, channel_args: config)
Suite.decode_json(File.read(ARGV.fetch(1))).scenarios.each do |scenario|
  puts run(client, scenario).to_json
  $stdout.flush
end
