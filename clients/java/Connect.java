import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.ManagedChannel;
import io.grpc.netty.NettyChannelBuilder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/** How a client connects: with the service config that the clients of all languages share. */
final class Connect {
  private Connect() {}

  static ManagedChannel to(String address) throws IOException {
    String json = Files.readString(Path.of("../service_config.json"));
    Map<String, Object> config = new Gson().fromJson(json, new TypeToken<Map<String, Object>>() {}.getType());
    return NettyChannelBuilder.forTarget(address).usePlaintext().defaultServiceConfig(config).enableRetry().build();
  }
}
