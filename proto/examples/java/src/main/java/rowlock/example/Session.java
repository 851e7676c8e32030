package rowlock.example;

import io.grpc.CallCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Instant;
import java.util.UUID;
import java.util.concurrent.Executor;
import rowlock.identity.v1.AuthServiceGrpc.AuthServiceBlockingStub;
import rowlock.identity.v1.RefreshTokensRequest;
import rowlock.identity.v1.SignInRequest;
import rowlock.identity.v1.SignUpRequest;

/** Someone who is signed in: the credentials of a call. */
final class Session extends CallCredentials {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final AuthServiceBlockingStub auth;
  private String accessToken;
  private Instant expireTime;
  private String refreshToken;

  private Session(AuthServiceBlockingStub auth) {
    this.auth = auth;
  }

  static Session signIn(AuthServiceBlockingStub auth, String email, String password) {
    var answer = auth.signIn(SignInRequest.newBuilder().setEmail(email).setPassword(password).build());
    var session = new Session(auth);
    session.accessToken = answer.getAccessToken();
    session.expireTime = Instant.ofEpochSecond(answer.getAccessTokenExpireTime().getSeconds());
    session.refreshToken = answer.getRefreshToken();
    return session;
  }

  /** Signs somebody up, who stays as a user of this system. */
  static Session newcomer(AuthServiceBlockingStub auth, String name) {
    var email = UUID.randomUUID() + "@rowlock.test";
    var password = UUID.randomUUID().toString();
    auth.signUp(SignUpRequest.newBuilder().setEmail(email).setPassword(password).setDisplayName(name).build());
    return signIn(auth, email, password);
  }

  synchronized String refreshToken() {
    return refreshToken;
  }

  /** Trades the refresh token, which is good for one use, for the next tokens. */
  synchronized void refresh() {
    var answer = auth.refreshTokens(RefreshTokensRequest.newBuilder().setRefreshToken(refreshToken).build());
    accessToken = answer.getAccessToken();
    expireTime = Instant.ofEpochSecond(answer.getAccessTokenExpireTime().getSeconds());
    refreshToken = answer.getRefreshToken();
  }

  /** Gives each call an access token that is good for half a minute more. */
  @Override
  public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
    executor.execute(
        () -> {
          try {
            var headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + freshToken());
            applier.apply(headers);
          } catch (StatusRuntimeException error) {
            applier.fail(Status.UNAUTHENTICATED.withCause(error));
          }
        });
  }

  private synchronized String freshToken() {
    if (expireTime.isBefore(Instant.now().plusSeconds(30))) {
      refresh();
    }
    return accessToken;
  }
}
