"""A client of Rowlock.

It sells the only seat of an event to 48 tries of one person, meets EVENT_FULL, queues, is promoted, and reads it all again
in the change log. It stops with exit code 1 where an answer is not as the contract says.
"""

import os
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "gen"))

import grpc

from rowlock.booking.v1 import change_pb2, event_pb2, waitlist_pb2
from rowlock.booking.v1.change_service_pb2 import StreamChangesRequest
from rowlock.booking.v1.change_service_pb2_grpc import ChangeServiceStub
from rowlock.booking.v1.event_service_pb2 import (
    CancelEventRequest,
    CreateEventRequest,
    PublishEventRequest,
    WatchEventRequest,
)
from rowlock.booking.v1.event_service_pb2_grpc import EventServiceStub
from rowlock.booking.v1.registration_service_pb2 import CancelRegistrationRequest, RegisterRequest
from rowlock.booking.v1.registration_service_pb2_grpc import RegistrationServiceStub
from rowlock.booking.v1.waitlist_service_pb2 import GetWaitlistEntryRequest, JoinWaitlistRequest
from rowlock.booking.v1.waitlist_service_pb2_grpc import WaitlistServiceStub
from rowlock.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from rowlock_session import Session, connect, reason

# How often the registration is sent at once: more often than the 20 times a moment that each of two replicas allows one
# attendee, so that some are RATE_LIMITED and repeated as the service config says.
TRIES = 48
CHANGES = 9


def check(holds: bool, what: object) -> None:
    if not holds:
        sys.exit(f"not as the contract says: {what}")


def see(watch: grpc.Call, version: int, state: event_pb2.EventState, seats_remaining: int, waitlist_size: int) -> int:
    """Reads the watch until it shows these numbers, and returns their version.

    What changes quickly is merged, so there may be less to see than has happened, but versions only rise.
    """
    for seats in watch:
        check(seats.version > version, seats)
        version = seats.version
        if (seats.state, seats.seats_remaining, seats.waitlist_size) == (state, seats_remaining, waitlist_size):
            return version
    sys.exit("the watch has ended")


def read_changes(
    changes: ChangeServiceStub, user: Session, event_id: str, resume_token: str, version: int, most: int
) -> tuple[str, int]:
    """Reads so many changes after the token, breaks off, and returns where to go on and the last version."""
    request = StreamChangesRequest(event_id=event_id, resume_token=resume_token)
    stream = changes.StreamChanges(request, metadata=user.metadata())
    for answer in stream:
        version += 1
        check(answer.change.version == version, answer)
        resume_token = answer.resume_token
        print(f"  {version} {change_pb2.ChangeAction.Name(answer.change.action)}")
        most -= 1
        if most == 0:
            break
    stream.cancel()
    return resume_token, version


def main(identity: grpc.Channel, booking: grpc.Channel) -> None:
    auth = AuthServiceStub(identity)
    events, registrations = EventServiceStub(booking), RegistrationServiceStub(booking)
    queue = WaitlistServiceStub(booking)

    organizer = Session(auth, os.environ["ROWLOCK_ORGANIZER_EMAIL"], os.environ["ROWLOCK_ORGANIZER_PASSWORD"])
    ada, grace = Session.newcomer(auth, "Ada"), Session.newcomer(auth, "Grace")
    first = grace.refresh_token
    grace.refresh()
    check(grace.refresh_token != first, "the refresh token has not changed")
    print("signed in: an organizer, Ada and Grace, who has refreshed her tokens")

    event = event_pb2.Event(title="Supper for one, from Python", capacity=1)
    event.start_time.FromSeconds(int(time.time()) + 30 * 24 * 3600)
    event.end_time.FromSeconds(event.start_time.seconds + 4 * 3600)
    request = CreateEventRequest(event=event, request_id=str(uuid.uuid4()))
    event_id = events.CreateEvent(request, metadata=organizer.metadata()).event.event_id
    published = events.PublishEvent(PublishEventRequest(event_id=event_id), metadata=organizer.metadata())
    check(published.event.state == event_pb2.EVENT_STATE_PUBLISHED, published)
    print("published an event with one seat:", event_id)

    watch = events.WatchEvent(WatchEventRequest(event_id=event_id), metadata=grace.metadata())
    version = see(watch, 0, event_pb2.EVENT_STATE_PUBLISHED, 1, 0)

    # One request many times at once, as a client would send it that doubts whether it was heard: whichever replica answers,
    # it is with the same registration.
    request = RegisterRequest(event_id=event_id, request_id=str(uuid.uuid4()))
    calls = [registrations.Register.future(request, metadata=ada.metadata()) for _ in range(TRIES)]
    made = {call.result().registration.registration_id for call in calls}
    check(len(made) == 1 and "" not in made, made)
    registration_id = made.pop()
    print(f"{TRIES} tries of one request made one registration: {registration_id}")
    version = see(watch, version, event_pb2.EVENT_STATE_PUBLISHED, 0, 0)

    try:
        registrations.Register(
            RegisterRequest(event_id=event_id, request_id=str(uuid.uuid4())), metadata=grace.metadata()
        )
        sys.exit("one seat too many")
    except grpc.RpcError as error:
        if reason(error) != "EVENT_FULL":
            raise
    request = JoinWaitlistRequest(event_id=event_id, request_id=str(uuid.uuid4()))
    entry = queue.JoinWaitlist(request, metadata=grace.metadata()).entry
    question = GetWaitlistEntryRequest(entry_id=entry.entry_id)
    entry = queue.GetWaitlistEntry(question, metadata=grace.metadata()).entry
    check(entry.rank == 1, entry)
    print("EVENT_FULL for Grace, who is next in the queue now")
    version = see(watch, version, event_pb2.EVENT_STATE_PUBLISHED, 0, 1)

    registrations.CancelRegistration(
        CancelRegistrationRequest(registration_id=registration_id), metadata=ada.metadata()
    )
    entry = queue.GetWaitlistEntry(question, metadata=grace.metadata()).entry
    check(entry.state == waitlist_pb2.WAITLIST_ENTRY_STATE_PROMOTED and entry.registration_id, entry)
    print("Ada cancelled, and the same transaction gave Grace the seat")
    version = see(watch, version, event_pb2.EVENT_STATE_PUBLISHED, 0, 0)

    events.CancelEvent(CancelEventRequest(event_id=event_id, reason="the cook is ill"), metadata=organizer.metadata())
    see(watch, version, event_pb2.EVENT_STATE_CANCELLED, 1, 0)
    check(next(watch, None) is None, "the watch goes on")
    print("the watch saw every step and ended with the event")

    admin = Session(auth, os.environ["ROWLOCK_ADMIN_EMAIL"], os.environ["ROWLOCK_ADMIN_PASSWORD"])
    changes = ChangeServiceStub(booking)
    token, version = read_changes(changes, admin, event_id, "", 0, 3)
    _, version = read_changes(changes, admin, event_id, token, version, 100)
    check(version == CHANGES, version)
    print("the change log has it all, read in two parts without a gap")


with (
    connect(os.environ["ROWLOCK_IDENTITY_ADDR"]) as identity_channel,
    connect(os.environ["ROWLOCK_BOOKING_ADDRS"]) as booking_channel,
):
    main(identity_channel, booking_channel)
