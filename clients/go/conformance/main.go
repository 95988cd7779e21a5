// The conformance program of the Go client: conformance ADDRESS SUITE.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/health"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	conformance "thermostat/conformance/v1"
	pb "thermostat/v1"
)

func main() {
	suite := &conformance.Suite{}
	text, err := os.ReadFile(os.Args[2])
	check(err)
	check(protojson.Unmarshal(text, suite))
	config, err := os.ReadFile("../service_config.json")
	check(err)
	conn, err := grpc.Dial(os.Args[1], grpc.WithInsecure(), grpc.WithDefaultServiceConfig(string(config)))
	check(err)
	defer conn.Close()
	for _, scenario := range suite.Scenarios {
		line, err := protojson.Marshal(run(pb.NewGenerationServiceClient(conn), scenario))
		check(err)
		fmt.Println(string(line))
	}
}

func run(client pb.GenerationServiceClient, scenario *conformance.Scenario) *conformance.Result {
	ctx, cancel := context.WithCancel(context.Background())
	if scenario.DeadlineSeconds > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(scenario.DeadlineSeconds*float64(time.Second)))
	}
	defer cancel()
	result := &conformance.Result{Scenario: scenario.Name}
	stream, err := client.Generate(ctx, scenario.Request)
	for tokens := 0; err == nil; {
		var response *pb.GenerateResponse
		if response, err = stream.Recv(); response.GetEvent() == nil {
			continue
		}
		result.Responses = append(result.Responses, response)
		tokens += len(response.GetOutput().GetTokens())
		if scenario.CancelAfter > 0 && tokens >= int(scenario.CancelAfter) {
			cancel()
		}
	}
	if err != io.EOF {
		fail(result, status.Convert(err))
	}
	return result
}

func fail(result *conformance.Result, failure *status.Status) {
	result.Code, result.Message = int32(failure.Code()), failure.Message()
	for _, detail := range failure.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.FieldViolations {
				result.Violations = append(result.Violations,
					&conformance.Violation{Field: violation.Field, Description: violation.Description})
			}
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
