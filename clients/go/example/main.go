// Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/health" // for the service config's health check
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	pb "thermostat/v1"
)

// generate calls each for every token; the error is io.EOF at a good end.
func generate(ctx context.Context, client pb.GenerationServiceClient, request *pb.GenerateRequest, each func(*pb.Token)) error {
	stream, err := client.Generate(ctx, request)
	for response := new(pb.GenerateResponse); err == nil; {
		response, err = stream.Recv()
		for _, token := range response.GetOutput().GetTokens() {
			each(token)
		}
	}
	return err
}

func main() {
	config, _ := os.ReadFile("../service_config.json")
	conn, _ := grpc.Dial(os.Args[1], grpc.WithInsecure(), grpc.WithDefaultServiceConfig(string(config)))
	client, ctx := pb.NewGenerationServiceClient(conn), context.Background()
	request := &pb.GenerateRequest{
		Input:    &pb.GenerateRequest_Text{Text: "class Parser:\n    def"},
		Policy:   &pb.Policy{Kind: &pb.Policy_EntropyBand{EntropyBand: &pb.EntropyBandPolicy{}}},
		Seed:     proto.Uint64(7),
		Stopping: &pb.Stopping{MaxOutputTokens: proto.Int32(16)},
	}
	_ = generate(ctx, client, request, func(token *pb.Token) {
		info := token.GetSamplingInfo()
		fmt.Printf("%-16q %5.2f nats  T = %.2f\n", token.TokenBytes, info.GetOriginalEntropy(), info.GetTemperature())
	})

	request.Filters = &pb.Filters{TopP: proto.Float64(1.5)}
	err := generate(ctx, client, request, func(*pb.Token) {})
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			fmt.Println("refused:", bad.FieldViolations[0].Field, bad.FieldViolations[0].Description)
		}
	}

	request.Filters = nil
	request.Stopping.MaxOutputTokens = proto.Int32(2000)
	soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	fmt.Println("deadline:", status.Code(generate(soon, client, request, func(*pb.Token) {})))
	brief, cancel := context.WithCancel(ctx)
	fmt.Println("cancel:", status.Code(generate(brief, client, request, func(*pb.Token) { cancel() })))
}
