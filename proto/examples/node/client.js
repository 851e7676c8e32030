// A client of Rowlock: it sells the only seat of an event to 48 tries of one person, meets EVENT_FULL, queues, is
// promoted, and reads it all again in the change log. It stops with exit code 1 where an answer is not as the contract says.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { booking, connect, identity, reason, Session } from "./rowlock.js";

// How often the registration is sent at once: more often than the 20 times a moment that each of two replicas allows one
// attendee, so that some are RATE_LIMITED and repeated as the service config says.
const TRIES = 48;
const CHANGES = 9;

const { env } = process;
const auth = connect(identity.v1.AuthService, env.ROWLOCK_IDENTITY_ADDR);
const [events, registrations, queue, changes] = ["EventService", "RegistrationService", "WaitlistService", "ChangeService"].map(
  (service) => connect(booking.v1[service], env.ROWLOCK_BOOKING_ADDRS),
);
setTimeout(() => assert.fail("a minute has passed"), 60_000).unref();

const organizer = await Session.signIn(auth, env.ROWLOCK_ORGANIZER_EMAIL, env.ROWLOCK_ORGANIZER_PASSWORD);
const ada = await Session.newcomer(auth, "Ada");
const grace = await Session.newcomer(auth, "Grace");
const { refreshToken } = grace.tokens;
await grace.refresh();
assert.notEqual(grace.tokens.refreshToken, refreshToken);
console.log("signed in: an organizer, Ada and Grace, who has refreshed her tokens");

const start = Math.floor(Date.now() / 1000) + 30 * 24 * 3600;
const created = await events.CreateEvent(
  {
    event: { title: "Supper for one, from Node", capacity: 1, startTime: { seconds: start }, endTime: { seconds: start + 4 * 3600 } },
    requestId: randomUUID(),
  },
  await organizer.metadata(),
);
const { eventId } = created.event;
const published = await events.PublishEvent({ eventId }, await organizer.metadata());
assert.equal(published.event.state, "EVENT_STATE_PUBLISHED");
console.log(`published an event with one seat: ${eventId}`);

const watch = events.WatchEvent({ eventId }, await grace.metadata());
const seats = watch[Symbol.asyncIterator]();
let version = 0;
await see("EVENT_STATE_PUBLISHED", 1, 0);

// One request many times at once, as a client would send it that doubts whether it was heard: whichever replica answers, it
// is with the same registration.
const request = { eventId, requestId: randomUUID() };
const metadata = await ada.metadata();
const answers = await Promise.all(Array.from({ length: TRIES }, () => registrations.Register(request, metadata)));
const made = new Set(answers.map((answer) => answer.registration?.registrationId));
assert.equal(made.size, 1);
const [registrationId] = made;
assert.ok(registrationId);
console.log(`${TRIES} tries of one request made one registration: ${registrationId}`);
await see("EVENT_STATE_PUBLISHED", 0, 0);

await assert.rejects(
  registrations.Register({ eventId, requestId: randomUUID() }, await grace.metadata()),
  (error) => reason(error) === "EVENT_FULL",
);
const { entry } = await queue.JoinWaitlist({ eventId, requestId: randomUUID() }, await grace.metadata());
const waiting = await queue.GetWaitlistEntry({ entryId: entry.entryId }, await grace.metadata());
assert.equal(waiting.entry.rank, 1);
console.log("EVENT_FULL for Grace, who is next in the queue now");
await see("EVENT_STATE_PUBLISHED", 0, 1);

await registrations.CancelRegistration({ registrationId }, await ada.metadata());
const promoted = await queue.GetWaitlistEntry({ entryId: entry.entryId }, await grace.metadata());
assert.equal(promoted.entry.state, "WAITLIST_ENTRY_STATE_PROMOTED");
assert.ok(promoted.entry.registrationId);
console.log("Ada cancelled, and the same transaction gave Grace the seat");
await see("EVENT_STATE_PUBLISHED", 0, 0);

await events.CancelEvent({ eventId, reason: "the cook is ill" }, await organizer.metadata());
await see("EVENT_STATE_CANCELLED", 1, 0);
assert.equal((await seats.next()).done, true);
console.log("the watch saw every step and ended with the event");

const admin = await Session.signIn(auth, env.ROWLOCK_ADMIN_EMAIL, env.ROWLOCK_ADMIN_PASSWORD);
const [soFar, resumeToken] = await readChanges("", 0, 3);
const [all] = await readChanges(resumeToken, soFar, 100);
assert.equal(all, CHANGES);
console.log("the change log has it all, read in two parts without a gap");

// Reads the watch until it shows these numbers. What changes quickly is merged, so there may be less to see than has
// happened, but versions only rise.
async function see(state, seatsRemaining, waitlistSize) {
  for (;;) {
    const { value, done } = await seats.next();
    assert.ok(!done, "the watch has ended");
    assert.ok(value.version > version);
    version = value.version;
    if (value.state === state && value.seatsRemaining === seatsRemaining && value.waitlistSize === waitlistSize) return;
  }
}

// Reads so many changes after the token, breaks off, and returns the last version and where to go on.
async function readChanges(resumeToken, version, most) {
  const stream = changes.StreamChanges({ eventId, resumeToken }, await admin.metadata());
  stream.on("error", () => {}); // Of our own breaking off; the loop throws the others.
  for await (const answer of stream) {
    version += 1;
    assert.equal(answer.change.version, version);
    ({ resumeToken } = answer);
    console.log(`  ${version} ${answer.change.action}`);
    if (--most === 0) break;
  }
  stream.cancel();
  return [version, resumeToken];
}

for (const client of [auth, events, registrations, queue, changes]) client.close();
