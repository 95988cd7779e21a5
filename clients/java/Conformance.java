import static java.util.concurrent.TimeUnit.MICROSECONDS;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.BadRequest;
import dev.thermostat.conformance.v1.Result;
import dev.thermostat.conformance.v1.Scenario;
import dev.thermostat.conformance.v1.Suite;
import dev.thermostat.conformance.v1.Violation;
import dev.thermostat.v1.GenerateResponse;
import dev.thermostat.v1.GenerateResponse.EventCase;
import dev.thermostat.v1.GenerationServiceGrpc;
import dev.thermostat.v1.GenerationServiceGrpc.GenerationServiceBlockingStub;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.nio.file.Files;
import java.nio.file.Path;

/** The conformance program of the Java client: java Conformance ADDRESS SUITE. */
public final class Conformance {
  public static void main(String[] arguments) throws Exception {
    Suite.Builder suite = Suite.newBuilder();
    JsonFormat.parser().merge(Files.readString(Path.of(arguments[1])), suite);
    JsonFormat.Printer printer = JsonFormat.printer().omittingInsignificantWhitespace();
    ManagedChannel channel = Connect.to(arguments[0]);
    for (Scenario scenario : suite.getScenariosList())
      System.out.println(printer.print(run(GenerationServiceGrpc.newBlockingStub(channel), scenario)));
    channel.shutdown();
  }

  private static Result run(GenerationServiceBlockingStub client, Scenario scenario) throws Exception {
    Result.Builder result = Result.newBuilder().setScenario(scenario.getName());
    double deadline = scenario.getDeadlineSeconds();
    var stub = deadline > 0 ? client.withDeadlineAfter((long) (1e6 * deadline), MICROSECONDS) : client;
    try (var context = Context.current().withCancellation()) {
      context.run(() -> read(stub, scenario, result, context));
    } catch (StatusRuntimeException e) {
      fail(e, result);
    }
    return result.build();
  }

  private static void read(GenerationServiceBlockingStub stub, Scenario scenario, Result.Builder result,
      Context.CancellableContext context) {
    int[] tokens = {0};
    stub.generate(scenario.getRequest()).forEachRemaining((GenerateResponse response) -> {
      if (response.getEventCase() == EventCase.EVENT_NOT_SET)
        return;
      result.addResponses(response);
      tokens[0] += response.getOutput().getTokensCount();
      if (scenario.getCancelAfter() > 0 && tokens[0] >= scenario.getCancelAfter())
        context.cancel(null);
    });
  }

  private static void fail(StatusRuntimeException failure, Result.Builder result)
      throws InvalidProtocolBufferException {
    String message = failure.getStatus().getDescription();
    result.setCode(failure.getStatus().getCode().value()).setMessage(message == null ? "" : message);
    for (Any detail : StatusProto.fromThrowable(failure).getDetailsList()) {
      if (!detail.is(BadRequest.class))
        continue;
      for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList())
        result.addViolations(
            Violation.newBuilder().setField(violation.getField()).setDescription(violation.getDescription()));
    }
  }
}
