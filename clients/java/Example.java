import static java.util.concurrent.TimeUnit.MILLISECONDS;

import com.google.protobuf.Any;
import com.google.rpc.BadRequest;
import dev.thermostat.v1.*;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;

/** Streams a prompt under an adaptive policy, then shows an error, a deadline and a cancel. */
public final class Example {
  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = Connect.to(arguments[0]);
    var client = GenerationServiceGrpc.newBlockingStub(channel);
    var policy = Policy.newBuilder().setEntropyBand(EntropyBandPolicy.getDefaultInstance());
    var stopping = Stopping.newBuilder().setMaxOutputTokens(16);
    var request = GenerateRequest.newBuilder().setText("class Parser:\n    def").setPolicy(policy).setSeed(7);

    client.generate(request.setStopping(stopping).build()).forEachRemaining(response -> {
      for (Token token : response.getOutput().getTokensList()) {
        SamplingInfo info = token.getSamplingInfo();
        String text = '"' + token.getTokenBytes().toStringUtf8().replace("\n", "\\n") + '"';
        System.out.printf("%-16s %5.2f nats  T = %.2f%n", text, info.getOriginalEntropy(), info.getTemperature());
      }
    });

    var wrong = request.clone().setFilters(Filters.newBuilder().setTopP(1.5));
    try {
      client.generate(wrong.build()).forEachRemaining(response -> {});
    } catch (StatusRuntimeException e) {
      for (Any detail : StatusProto.fromThrowable(e).getDetailsList())
        if (detail.is(BadRequest.class))
          for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList())
            System.out.println("refused: " + violation.getField() + " " + violation.getDescription());
    }

    var endless = request.setStopping(stopping.setMaxOutputTokens(2000)).build();
    try {
      client.withDeadlineAfter(200, MILLISECONDS).generate(endless).forEachRemaining(response -> {});
    } catch (StatusRuntimeException e) {
      System.out.println("deadline: " + e.getStatus().getCode());
    }

    try (var context = Context.current().withCancellation()) {
      context.run(() -> client.generate(endless).forEachRemaining(response -> {
        if (response.hasOutput())
          context.cancel(null);
      }));
    } catch (StatusRuntimeException e) {
      System.out.println("cancel: " + e.getStatus().getCode());
    }
    channel.shutdown();
  }
}
