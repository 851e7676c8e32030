package rowlock.example;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Timestamps;
import com.google.rpc.ErrorInfo;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.util.HashSet;
import java.util.Iterator;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import rowlock.booking.v1.CancelEventRequest;
import rowlock.booking.v1.CancelRegistrationRequest;
import rowlock.booking.v1.ChangeServiceGrpc;
import rowlock.booking.v1.ChangeServiceGrpc.ChangeServiceBlockingStub;
import rowlock.booking.v1.CreateEventRequest;
import rowlock.booking.v1.Event;
import rowlock.booking.v1.EventServiceGrpc;
import rowlock.booking.v1.EventState;
import rowlock.booking.v1.GetWaitlistEntryRequest;
import rowlock.booking.v1.JoinWaitlistRequest;
import rowlock.booking.v1.PublishEventRequest;
import rowlock.booking.v1.RegisterRequest;
import rowlock.booking.v1.RegisterResponse;
import rowlock.booking.v1.RegistrationServiceGrpc;
import rowlock.booking.v1.StreamChangesRequest;
import rowlock.booking.v1.WaitlistEntryState;
import rowlock.booking.v1.WaitlistServiceGrpc;
import rowlock.booking.v1.WatchEventRequest;
import rowlock.booking.v1.WatchEventResponse;
import rowlock.identity.v1.AuthServiceGrpc;

/**
 * A client of Rowlock: it sells the only seat of an event to 48 tries of one person, meets EVENT_FULL, queues, is promoted,
 * and reads it all again in the change log. It fails where an answer is not as the contract says.
 */
public final class Client {
  /**
   * How often the registration is sent at once: more often than the 20 times a moment that each of two replicas allows one
   * attendee, so that some are RATE_LIMITED and repeated as the service config says.
   */
  private static final int TRIES = 48;

  private static final int CHANGES = 9;

  private Client() {}

  public static void main(String[] arguments) throws IOException, InterruptedException, ExecutionException {
    var identity = Replicas.connect(System.getenv("ROWLOCK_IDENTITY_ADDR"));
    var booking = Replicas.connect(System.getenv("ROWLOCK_BOOKING_ADDRS"));
    try {
      story(identity, booking);
    } finally {
      for (var channel : new ManagedChannel[] {booking, identity}) {
        channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
      }
    }
  }

  private static void story(Channel identity, Channel booking) throws InterruptedException, ExecutionException {
    var auth = AuthServiceGrpc.newBlockingStub(identity);
    var events = EventServiceGrpc.newBlockingStub(booking);
    var registrations = RegistrationServiceGrpc.newBlockingStub(booking);
    var queue = WaitlistServiceGrpc.newBlockingStub(booking);

    var organizer =
        Session.signIn(auth, System.getenv("ROWLOCK_ORGANIZER_EMAIL"), System.getenv("ROWLOCK_ORGANIZER_PASSWORD"));
    var ada = Session.newcomer(auth, "Ada");
    var grace = Session.newcomer(auth, "Grace");
    var first = grace.refreshToken();
    grace.refresh();
    check(!grace.refreshToken().equals(first), "the refresh token has not changed");
    System.out.println("signed in: an organizer, Ada and Grace, who has refreshed her tokens");

    var start = System.currentTimeMillis() + TimeUnit.DAYS.toMillis(30);
    var supper =
        Event.newBuilder()
            .setTitle("Supper for one, from Java")
            .setCapacity(1)
            .setStartTime(Timestamps.fromMillis(start))
            .setEndTime(Timestamps.fromMillis(start + TimeUnit.HOURS.toMillis(4)));
    var id =
        events
            .withCallCredentials(organizer)
            .createEvent(CreateEventRequest.newBuilder().setEvent(supper).setRequestId(newId()).build())
            .getEvent()
            .getEventId();
    var published =
        events.withCallCredentials(organizer).publishEvent(PublishEventRequest.newBuilder().setEventId(id).build());
    check(published.getEvent().getState() == EventState.EVENT_STATE_PUBLISHED, published);
    System.out.println("published an event with one seat: " + id);

    var watch = events.withCallCredentials(grace).watchEvent(WatchEventRequest.newBuilder().setEventId(id).build());
    var version = see(watch, 0, EventState.EVENT_STATE_PUBLISHED, 1, 0);

    var registration = register(booking, id, ada);
    System.out.println(TRIES + " tries of one request made one registration: " + registration);
    version = see(watch, version, EventState.EVENT_STATE_PUBLISHED, 0, 0);

    try {
      registrations
          .withCallCredentials(grace)
          .register(RegisterRequest.newBuilder().setEventId(id).setRequestId(newId()).build());
      throw new AssertionError("one seat too many");
    } catch (StatusRuntimeException error) {
      if (!reason(error).equals("EVENT_FULL")) {
        throw error;
      }
    }
    var asGrace = queue.withCallCredentials(grace);
    var entry =
        asGrace.joinWaitlist(JoinWaitlistRequest.newBuilder().setEventId(id).setRequestId(newId()).build()).getEntry();
    var question = GetWaitlistEntryRequest.newBuilder().setEntryId(entry.getEntryId()).build();
    entry = asGrace.getWaitlistEntry(question).getEntry();
    check(entry.getRank() == 1, entry);
    System.out.println("EVENT_FULL for Grace, who is next in the queue now");
    version = see(watch, version, EventState.EVENT_STATE_PUBLISHED, 0, 1);

    registrations
        .withCallCredentials(ada)
        .cancelRegistration(CancelRegistrationRequest.newBuilder().setRegistrationId(registration).build());
    entry = asGrace.getWaitlistEntry(question).getEntry();
    check(entry.getState() == WaitlistEntryState.WAITLIST_ENTRY_STATE_PROMOTED, entry);
    check(!entry.getRegistrationId().isEmpty(), entry);
    System.out.println("Ada cancelled, and the same transaction gave Grace the seat");
    version = see(watch, version, EventState.EVENT_STATE_PUBLISHED, 0, 0);

    events
        .withCallCredentials(organizer)
        .cancelEvent(CancelEventRequest.newBuilder().setEventId(id).setReason("the cook is ill").build());
    see(watch, version, EventState.EVENT_STATE_CANCELLED, 1, 0);
    check(!watch.hasNext(), "the watch goes on");
    System.out.println("the watch saw every step and ended with the event");

    var admin = Session.signIn(auth, System.getenv("ROWLOCK_ADMIN_EMAIL"), System.getenv("ROWLOCK_ADMIN_PASSWORD"));
    readChanges(ChangeServiceGrpc.newBlockingStub(booking).withCallCredentials(admin), id);
    System.out.println("the change log has it all, read in two parts without a gap");
  }

  /**
   * Sends one request many times at once, as a client would that doubts whether it was heard: whichever replica answers, it
   * is with the same registration.
   */
  private static String register(Channel booking, String event, Session user)
      throws InterruptedException, ExecutionException {
    var stub = RegistrationServiceGrpc.newFutureStub(booking).withCallCredentials(user);
    var request = RegisterRequest.newBuilder().setEventId(event).setRequestId(newId()).build();
    var calls = Stream.generate(() -> stub.register(request)).limit(TRIES).toList();
    Set<String> made = new HashSet<>();
    for (Future<RegisterResponse> call : calls) {
      made.add(call.get().getRegistration().getRegistrationId());
    }
    check(made.size() == 1 && !made.contains(""), made);
    return made.iterator().next();
  }

  /**
   * Reads the watch until it shows these numbers, and returns their version. What changes quickly is merged, so there may be
   * less to see than has happened, but versions only rise.
   */
  private static long see(
      Iterator<WatchEventResponse> watch, long version, EventState state, int remaining, int waiting) {
    while (true) {
      var seats = watch.next();
      check(seats.getVersion() > version, seats);
      version = seats.getVersion();
      if (seats.getState() == state && seats.getSeatsRemaining() == remaining && seats.getWaitlistSize() == waiting) {
        return version;
      }
    }
  }

  /** Reads three changes, breaks off, and goes on from the last resume token. */
  private static void readChanges(ChangeServiceBlockingStub changes, String event) {
    var token = "";
    var version = 0L;
    for (var most : new int[] {3, 100}) {
      var request = StreamChangesRequest.newBuilder().setEventId(event).setResumeToken(token).build();
      try (var untilBrokenOff = Context.current().withCancellation()) {
        var before = untilBrokenOff.attach();
        try {
          var stream = changes.streamChanges(request);
          for (var i = 0; i < most && stream.hasNext(); i++) {
            var answer = stream.next();
            version++;
            check(answer.getChange().getVersion() == version, answer);
            token = answer.getResumeToken();
            System.out.println("  " + version + " " + answer.getChange().getAction());
          }
        } finally {
          untilBrokenOff.detach(before);
        }
      }
    }
    check(version == CHANGES, version);
  }

  /** The reason in the google.rpc.ErrorInfo of an error: what a program decides by. Its message is for people. */
  private static String reason(StatusRuntimeException error) {
    var status = StatusProto.fromThrowable(error);
    for (var detail : status.getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          return detail.unpack(ErrorInfo.class).getReason();
        } catch (InvalidProtocolBufferException damaged) {
          throw new IllegalStateException(damaged);
        }
      }
    }
    return "";
  }

  private static String newId() {
    return UUID.randomUUID().toString();
  }

  private static void check(boolean holds, Object what) {
    if (!holds) {
      throw new AssertionError("not as the contract says: " + what);
    }
  }
}
