// A client of Rowlock: it sells the only seat of an event to 48 tries of one person, meets EVENT_FULL, queues, is
// promoted, and reads it all again in the change log. It stops with exit code 1 where an answer is not as the contract says.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { ChangeAction } from "./gen/rowlock/booking/v1/change.js";
import {
  ChangeServiceClient,
  StreamChangesRequest,
  type StreamChangesResponse,
} from "./gen/rowlock/booking/v1/change_service.js";
import { EventState } from "./gen/rowlock/booking/v1/event.js";
import {
  CancelEventRequest,
  CreateEventRequest,
  EventServiceClient,
  PublishEventRequest,
  WatchEventRequest,
  type WatchEventResponse,
} from "./gen/rowlock/booking/v1/event_service.js";
import {
  CancelRegistrationRequest,
  RegisterRequest,
  RegistrationServiceClient,
} from "./gen/rowlock/booking/v1/registration_service.js";
import { WaitlistEntryState } from "./gen/rowlock/booking/v1/waitlist.js";
import {
  GetWaitlistEntryRequest,
  JoinWaitlistRequest,
  WaitlistServiceClient,
} from "./gen/rowlock/booking/v1/waitlist_service.js";
import { AuthServiceClient } from "./gen/rowlock/identity/v1/auth_service.js";
import { connect, reason, Session } from "./rowlock.js";

// How often the registration is sent at once: more often than the 20 times a moment that each of two replicas allows one
// attendee, so that some are RATE_LIMITED and repeated as the service config says.
const TRIES = 48;
const CHANGES = 9;

const booking = environment("ROWLOCK_BOOKING_ADDRS");
const auth = connect(AuthServiceClient, environment("ROWLOCK_IDENTITY_ADDR"));
const events = connect(EventServiceClient, booking);
const registrations = connect(RegistrationServiceClient, booking);
const queue = connect(WaitlistServiceClient, booking);
const changes = connect(ChangeServiceClient, booking);
setTimeout(() => assert.fail("a minute has passed"), 60_000).unref();

const organizer = await Session.signIn(
  auth,
  environment("ROWLOCK_ORGANIZER_EMAIL"),
  environment("ROWLOCK_ORGANIZER_PASSWORD"),
);
const ada = await Session.newcomer(auth, "Ada");
const grace = await Session.newcomer(auth, "Grace");
const { refreshToken } = grace.tokens;
await grace.refresh();
assert.notEqual(grace.tokens.refreshToken, refreshToken);
console.log("signed in: an organizer, Ada and Grace, who has refreshed her tokens");

const startTime = new Date(Date.now() + 30 * 24 * 3600_000);
const endTime = new Date(startTime.getTime() + 4 * 3600_000);
const created = await events.createEvent(
  CreateEventRequest.create({
    event: { title: "Supper for one, from Node", capacity: 1, startTime, endTime },
    requestId: randomUUID(),
  }),
  await organizer.metadata(),
);
const { eventId } = created.event!;
const published = await events.publishEvent(PublishEventRequest.create({ eventId }), await organizer.metadata());
assert.equal(published.event?.state, EventState.EVENT_STATE_PUBLISHED);
console.log(`published an event with one seat: ${eventId}`);

const watch = events.watchEvent(WatchEventRequest.create({ eventId }), await grace.metadata());
const seats: AsyncIterator<WatchEventResponse> = watch[Symbol.asyncIterator]();
let version = 0;
await see(EventState.EVENT_STATE_PUBLISHED, 1, 0);

// One request many times at once, as a client would send it that doubts whether it was heard: whichever replica answers, it
// is with the same registration.
const request = RegisterRequest.create({ eventId, requestId: randomUUID() });
const metadata = await ada.metadata();
const answers = await Promise.all(Array.from({ length: TRIES }, () => registrations.register(request, metadata)));
const made = new Set(answers.map((answer) => answer.registration?.registrationId));
assert.equal(made.size, 1);
const [registrationId] = made;
assert.ok(registrationId);
console.log(`${TRIES} tries of one request made one registration: ${registrationId}`);
await see(EventState.EVENT_STATE_PUBLISHED, 0, 0);

await assert.rejects(
  registrations.register(RegisterRequest.create({ eventId, requestId: randomUUID() }), await grace.metadata()),
  (error) => reason(error) === "EVENT_FULL",
);
const joined = await queue.joinWaitlist(
  JoinWaitlistRequest.create({ eventId, requestId: randomUUID() }),
  await grace.metadata(),
);
const entry = GetWaitlistEntryRequest.create({ entryId: joined.entry!.entryId });
const waiting = await queue.getWaitlistEntry(entry, await grace.metadata());
assert.equal(waiting.entry?.rank, 1);
console.log("EVENT_FULL for Grace, who is next in the queue now");
await see(EventState.EVENT_STATE_PUBLISHED, 0, 1);

await registrations.cancelRegistration(CancelRegistrationRequest.create({ registrationId }), await ada.metadata());
const promoted = await queue.getWaitlistEntry(entry, await grace.metadata());
assert.equal(promoted.entry?.state, WaitlistEntryState.WAITLIST_ENTRY_STATE_PROMOTED);
assert.ok(promoted.entry.registrationId);
console.log("Ada cancelled, and the same transaction gave Grace the seat");
await see(EventState.EVENT_STATE_PUBLISHED, 0, 0);

await events.cancelEvent(CancelEventRequest.create({ eventId, reason: "the cook is ill" }), await organizer.metadata());
await see(EventState.EVENT_STATE_CANCELLED, 1, 0);
assert.equal((await seats.next()).done, true);
console.log("the watch saw every step and ended with the event");

const admin = await Session.signIn(auth, environment("ROWLOCK_ADMIN_EMAIL"), environment("ROWLOCK_ADMIN_PASSWORD"));
const [soFar, resumeToken] = await readChanges("", 0, 3);
const [all] = await readChanges(resumeToken, soFar, 100);
assert.equal(all, CHANGES);
console.log("the change log has it all, read in two parts without a gap");

// Reads the watch until it shows these numbers. What changes quickly is merged, so there may be less to see than has
// happened, but versions only rise.
async function see(state: EventState, seatsRemaining: number, waitlistSize: number): Promise<void> {
  for (;;) {
    const { value, done } = await seats.next();
    assert.ok(!done, "the watch has ended");
    assert.ok(value.version > version);
    version = value.version;
    if (value.state === state && value.seatsRemaining === seatsRemaining && value.waitlistSize === waitlistSize) return;
  }
}

// Reads so many changes after the token, breaks off, and returns the last version and where to go on.
async function readChanges(resumeToken: string, version: number, most: number): Promise<[number, string]> {
  const stream = changes.streamChanges(StreamChangesRequest.create({ eventId, resumeToken }), await admin.metadata());
  stream.on("error", () => {}); // Of our own breaking off; the loop throws the others.
  for await (const { change, resumeToken: next } of stream as AsyncIterable<StreamChangesResponse>) {
    version += 1;
    assert.equal(change?.version, version);
    resumeToken = next;
    console.log(`  ${version} ${ChangeAction[change.action]}`);
    if (--most === 0) break;
  }
  stream.cancel();
  return [version, resumeToken];
}

function environment(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: source deploy/local/.state/local.env`);
  return value;
}

for (const client of [auth, events, registrations, queue, changes]) client.close();
