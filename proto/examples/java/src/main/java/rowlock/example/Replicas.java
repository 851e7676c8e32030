package rowlock.example;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.EquivalentAddressGroup;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.StatusOr;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/** Channels to a list of addresses. Where a name stands for all replicas, "dns:///name:port" does without this. */
final class Replicas extends NameResolverProvider {
  private static final String SCHEME = "replicas";

  static {
    NameResolverRegistry.getDefaultRegistry().register(new Replicas());
  }

  /** A channel to all of these comma-separated addresses, as the service config says. */
  static ManagedChannel connect(String addresses) throws IOException {
    var text = Files.readString(Path.of("../../service-config.json"));
    Map<String, ?> serviceConfig = new Gson().fromJson(text, new TypeToken<Map<String, ?>>() {}.getType());
    return Grpc.newChannelBuilder(SCHEME + ":///" + addresses.replace("http://", ""), InsecureChannelCredentials.create())
        .defaultServiceConfig(serviceConfig)
        .build();
  }

  @Override
  public NameResolver newNameResolver(URI target, NameResolver.Args args) {
    if (!SCHEME.equals(target.getScheme())) {
      return null;
    }
    var addresses = Stream.of(target.getPath().substring(1).split(",")).map(Replicas::address).toList();
    return new Fixed(addresses);
  }

  private static EquivalentAddressGroup address(String hostAndPort) {
    var uri = URI.create("//" + hostAndPort);
    return new EquivalentAddressGroup(new InetSocketAddress(uri.getHost(), uri.getPort()));
  }

  @Override
  protected boolean isAvailable() {
    return true;
  }

  @Override
  protected int priority() {
    return 5;
  }

  @Override
  public String getDefaultScheme() {
    return SCHEME;
  }

  private static final class Fixed extends NameResolver {
    private final List<EquivalentAddressGroup> addresses;

    Fixed(List<EquivalentAddressGroup> addresses) {
      this.addresses = addresses;
    }

    @Override
    public void start(Listener2 listener) {
      listener.onResult(ResolutionResult.newBuilder().setAddressesOrError(StatusOr.fromValue(addresses)).build());
    }

    @Override
    public String getServiceAuthority() {
      return "rowlock";
    }

    @Override
    public void shutdown() {}
  }
}
