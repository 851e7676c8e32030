// A client of Rowlock: it sells the only seat of an event to 48 tries of one person, meets EVENT_FULL, queues, is
// promoted, and reads it all again in the change log. It stops with exit code 1 where an answer is not as the contract says.
package main

//go:generate buf generate ../..

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	booking "rowlock.example/client/gen/rowlock/booking/v1"
	identity "rowlock.example/client/gen/rowlock/identity/v1"
)

// How often the registration is sent at once: more often than the 20 times a moment that each of two replicas allows one
// attendee, so that some are RATE_LIMITED and repeated as the service config says.
const tries = 48

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := story(ctx); err != nil {
		log.Fatal(err)
	}
}

func story(ctx context.Context) error {
	identityConn, err := dial(environment("ROWLOCK_IDENTITY_ADDR"))
	if err != nil {
		return err
	}
	defer identityConn.Close()
	bookingConn, err := dial(environment("ROWLOCK_BOOKING_ADDRS"))
	if err != nil {
		return err
	}
	defer bookingConn.Close()
	auth := identity.NewAuthServiceClient(identityConn)
	events := booking.NewEventServiceClient(bookingConn)
	registrations := booking.NewRegistrationServiceClient(bookingConn)
	queue := booking.NewWaitlistServiceClient(bookingConn)

	organizer, err := signIn(ctx, auth, environment("ROWLOCK_ORGANIZER_EMAIL"), environment("ROWLOCK_ORGANIZER_PASSWORD"))
	if err != nil {
		return err
	}
	ada, err := newcomer(ctx, auth, "Ada")
	if err != nil {
		return err
	}
	grace, err := newcomer(ctx, auth, "Grace")
	if err != nil {
		return err
	}
	first := grace.refreshToken
	if err := grace.refresh(ctx); err != nil {
		return err
	}
	if grace.refreshToken == first {
		return errors.New("the refresh token should have changed")
	}
	fmt.Println("signed in: an organizer, Ada and Grace, who has refreshed her tokens")

	start := time.Now().Add(30 * 24 * time.Hour)
	created, err := events.CreateEvent(ctx, &booking.CreateEventRequest{
		Event: &booking.Event{
			Title:     "Supper for one, from Go",
			Capacity:  1,
			StartTime: timestamppb.New(start),
			EndTime:   timestamppb.New(start.Add(4 * time.Hour)),
		},
		RequestId: uuid.NewString(),
	}, organizer.credentials())
	if err != nil {
		return err
	}
	id := created.Event.EventId
	published, err := events.PublishEvent(ctx, &booking.PublishEventRequest{EventId: id}, organizer.credentials())
	if err != nil {
		return err
	}
	if published.Event.State != booking.EventState_EVENT_STATE_PUBLISHED {
		return fmt.Errorf("expected a published event: %v", published.Event)
	}
	fmt.Println("published an event with one seat:", id)

	watch, err := events.WatchEvent(ctx, &booking.WatchEventRequest{EventId: id}, grace.credentials())
	if err != nil {
		return err
	}
	var version int64
	if err := see(watch, &version, booking.EventState_EVENT_STATE_PUBLISHED, 1, 0); err != nil {
		return err
	}

	registration, err := register(ctx, registrations, id, ada)
	if err != nil {
		return err
	}
	fmt.Printf("%d tries of one request made one registration: %s\n", tries, registration)
	if err := see(watch, &version, booking.EventState_EVENT_STATE_PUBLISHED, 0, 0); err != nil {
		return err
	}

	_, err = registrations.Register(ctx, &booking.RegisterRequest{EventId: id, RequestId: uuid.NewString()}, grace.credentials())
	if reason(err) != "EVENT_FULL" {
		return fmt.Errorf("expected EVENT_FULL: %w", err)
	}
	joined, err := queue.JoinWaitlist(ctx, &booking.JoinWaitlistRequest{EventId: id, RequestId: uuid.NewString()}, grace.credentials())
	if err != nil {
		return err
	}
	question := &booking.GetWaitlistEntryRequest{EntryId: joined.Entry.EntryId}
	waiting, err := queue.GetWaitlistEntry(ctx, question, grace.credentials())
	if err != nil {
		return err
	}
	if waiting.Entry.Rank != 1 {
		return fmt.Errorf("expected rank 1: %v", waiting.Entry)
	}
	fmt.Println("EVENT_FULL for Grace, who is next in the queue now")
	if err := see(watch, &version, booking.EventState_EVENT_STATE_PUBLISHED, 0, 1); err != nil {
		return err
	}

	if _, err := registrations.CancelRegistration(ctx, &booking.CancelRegistrationRequest{RegistrationId: registration}, ada.credentials()); err != nil {
		return err
	}
	promoted, err := queue.GetWaitlistEntry(ctx, question, grace.credentials())
	if err != nil {
		return err
	}
	if promoted.Entry.State != booking.WaitlistEntryState_WAITLIST_ENTRY_STATE_PROMOTED || promoted.Entry.RegistrationId == "" {
		return fmt.Errorf("expected a promotion: %v", promoted.Entry)
	}
	fmt.Println("Ada cancelled, and the same transaction gave Grace the seat")
	if err := see(watch, &version, booking.EventState_EVENT_STATE_PUBLISHED, 0, 0); err != nil {
		return err
	}

	if _, err := events.CancelEvent(ctx, &booking.CancelEventRequest{EventId: id, Reason: "the cook is ill"}, organizer.credentials()); err != nil {
		return err
	}
	if err := see(watch, &version, booking.EventState_EVENT_STATE_CANCELLED, 1, 0); err != nil {
		return err
	}
	if _, err := watch.Recv(); err != io.EOF {
		return fmt.Errorf("expected the end of the watch: %w", err)
	}
	fmt.Println("the watch saw every step and ended with the event")

	admin, err := signIn(ctx, auth, environment("ROWLOCK_ADMIN_EMAIL"), environment("ROWLOCK_ADMIN_PASSWORD"))
	if err != nil {
		return err
	}
	return readChanges(ctx, booking.NewChangeServiceClient(bookingConn), id, admin)
}

// register sends one request many times at once, as a client would that doubts whether it was heard: whichever replica
// answers, it is with the same registration.
func register(ctx context.Context, client booking.RegistrationServiceClient, event string, user *session) (string, error) {
	request := &booking.RegisterRequest{EventId: event, RequestId: uuid.NewString()}
	var answers [tries]string
	group, ctx := errgroup.WithContext(ctx)
	for i := range answers {
		group.Go(func() error {
			answer, err := client.Register(ctx, request, user.credentials())
			if err == nil {
				answers[i] = answer.GetRegistration().GetRegistrationId()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	for _, answer := range answers {
		if answer == "" || answer != answers[0] {
			return "", fmt.Errorf("expected one registration: %v", answers)
		}
	}
	return answers[0], nil
}

// see reads the watch until it shows these numbers. What changes quickly is merged, so there may be less to see than has
// happened, but versions only rise, from one call of this to the next too.
func see(watch grpc.ServerStreamingClient[booking.WatchEventResponse], version *int64, state booking.EventState, remaining, waiting int32) error {
	for {
		seats, err := watch.Recv()
		if err != nil {
			return err
		}
		if seats.Version <= *version {
			return fmt.Errorf("a version that does not rise: %v", seats)
		}
		*version = seats.Version
		if seats.State == state && seats.SeatsRemaining == remaining && seats.WaitlistSize == waiting {
			return nil
		}
	}
}

// readChanges reads three changes, breaks off, and goes on from the last resume token.
func readChanges(ctx context.Context, client booking.ChangeServiceClient, event string, user *session) error {
	token, version := "", int64(0)
	for _, most := range []int{3, 100} {
		ctx, breakOff := context.WithCancel(ctx)
		defer breakOff()
		stream, err := client.StreamChanges(ctx, &booking.StreamChangesRequest{EventId: event, ResumeToken: token}, user.credentials())
		if err != nil {
			return err
		}
		for range most {
			answer, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			if version++; answer.Change.Version != version {
				return fmt.Errorf("expected change %d: %v", version, answer.Change)
			}
			token = answer.ResumeToken
			fmt.Printf("  %d %v\n", version, answer.Change.Action)
		}
	}
	if version != 9 {
		return fmt.Errorf("expected 9 changes, not %d", version)
	}
	fmt.Println("the change log has it all, read in two parts without a gap")
	return nil
}

// reason is the name that a program decides by. The message is for people.
func reason(err error) string {
	if status.Code(err) != codes.FailedPrecondition {
		return ""
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "booking.rowlock" {
			return info.Reason
		}
	}
	return ""
}
