//! Traces, as a collector gets them from the binary.

use booking_service::MIGRATOR;
use futures_util::future::join_all;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::test_support::{
    CollectedSpan, Serving, TestCluster, TestCollector, TestDatabase, TokenMint, attribute, counted, hex,
    traced,
};
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::acts::{ask, draft};
use crate::caller::Caller;
use crate::child::serve;
use crate::identity::Identity;
use crate::system::{eventually, get};

const SAMPLED: &str = "0af7651916cd43dd8448eb211c80319c";
const NOT_SAMPLED: &str = "1bf7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn find(spans: &[CollectedSpan], fits: impl Fn(&CollectedSpan) -> bool) -> Vec<&CollectedSpan> {
    spans.iter().filter(|span| fits(span)).collect()
}

/// A process with what it needs.
struct Scene {
    mint: TokenMint,
    serving: Serving,
    channel: Channel,
    _identity: Identity,
    _database: TestDatabase,
}

impl Scene {
    /// With these arguments, when it is ready.
    async fn start(arguments: &[&str]) -> Self {
        let mint = TokenMint::new();
        let identity = Identity::start(&mint).await;
        let database = TestCluster::database("booking", &MIGRATOR).await;
        let mut command = serve(&database.url, identity.address);
        command.args(arguments);
        let serving = Serving::start(command);
        eventually(async || get(serving.http, "/readyz").await.0.contains(" 200")).await;
        let channel = Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap().connect_lazy();
        Self { mint, serving, channel, _identity: identity, _database: database }
    }

    fn caller(&self, number: u128, role: Role) -> Caller {
        let user = Uuid::from_u128(number);
        Caller::new(user, &self.mint.token(user, role), self.channel.clone())
    }
}

// The collector has to answer while the end of the process is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_trace_goes_through_the_batch_into_its_statements() {
    let collector = TestCollector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let traces = ["--otlp-endpoint", &endpoint, "--otlp-sample-ratio", "0"];
    let rest = ["--log-filter", "info,service_core=debug", "--register-rate", "off", "--call-rate", "off"];
    let scene = Scene::start(&[&traces[..], &rest[..]].concat()).await;
    let organizer = scene.caller(1, Role::Organizer);
    let event = organizer.create(draft(100)).await.unwrap();
    let publish = pb::PublishEventRequest { event_id: event.event_id.clone(), ..Default::default() };
    organizer.events().publish_event(traced(publish, SAMPLED, PARENT, "01")).await.unwrap();

    let calls = (2..12).map(|number| {
        let (trace, flags) = if number % 2 == 0 { (SAMPLED, "01") } else { (NOT_SAMPLED, "00") };
        let (caller, request) =
            (scene.caller(number, Role::Attendee), traced(ask(&event), trace, PARENT, flags));
        async move { caller.registrations().register(request).await.unwrap() }
    });
    join_all(calls).await;
    // One alone: of the others the first may be one that is not recorded, whose batch then is not, until more come.
    let alone = scene.caller(12, Role::Attendee);
    alone.registrations().register(traced(ask(&event), SAMPLED, PARENT, "01")).await.unwrap();
    let get_event = pb::GetEventRequest { event_id: event.event_id.clone() };
    scene
        .caller(2, Role::Attendee)
        .events()
        .get_event(traced(get_event, SAMPLED, PARENT, "01"))
        .await
        .unwrap();
    let (status, log) = scene.serving.stop("-TERM");
    assert!(status.success());

    // The last ones were sent before the process ended.
    let spans = collector.spans();
    let of_caller = |span: &CollectedSpan| hex(&span.trace_id) == SAMPLED;
    let register = "rowlock.booking.v1.RegistrationService/Register";
    let servers = find(&spans, |span| of_caller(span) && span.name == register);
    assert_eq!(servers.len(), 6, "{spans:#?}");
    for server in &servers {
        assert_eq!((hex(&server.parent_span_id).as_str(), server.kind), (PARENT, 2));
        assert_eq!(attribute(server, "rpc.service"), "rowlock.booking.v1.RegistrationService");
        assert_eq!(attribute(server, "rpc.method"), "Register");
        assert_eq!(attribute(server, "rpc.grpc.status_code"), "0");
    }

    let batches = find(&spans, |span| span.name == "batch");
    let commands = find(&spans, |span| of_caller(span) && span.name == "command");
    assert_eq!(commands.len(), 7, "six who register and one who publishes");
    let servers = find(&spans, |span| of_caller(span) && span.kind == 2);
    for command in &commands {
        assert!(servers.iter().any(|server| server.span_id == command.parent_span_id));
        // Both lead to each other, and the command says when it was taken into which batch.
        let batch = batches.iter().find(|batch| {
            batch.links.iter().any(|link| link.span_id == command.span_id)
                && command.links.iter().any(|link| link.span_id == batch.span_id)
        });
        assert!(batch.is_some(), "{command:?} is in no batch");
        assert_eq!(command.events[0].name, "rowlock.batch.joined");
    }
    // Publishing locks, registering does not wait for a lock.
    let (mut locked, mut unlocked) = (0, 0);
    for batch in &batches {
        let inside = find(&spans, |span| span.parent_span_id == batch.span_id);
        let named = |name: &str| inside.iter().any(|span| span.name == name && span.kind == 3);
        // What the last batch has left is not read, and compared with the server that it is from.
        let remembered = inside
            .iter()
            .any(|span| attribute(span, "db.query.text").contains("pg_postmaster_start_time() ="));
        assert!(named("SELECT registrations") || remembered, "{inside:#?}");
        assert!(inside.iter().all(|span| attribute(span, "db.system.name") == "postgresql"));
        if named("EXECUTE lock_events") {
            locked += 1;
            assert!(named("SELECT registrations"), "{inside:#?}");
            let executed =
                |span: &&CollectedSpan| attribute(span, "db.query.text").contains("EXECUTE lock_events('?')");
            assert!(inside.iter().any(executed), "{inside:#?}");
            assert!(named("COMMIT"), "{inside:#?}");
        } else {
            unlocked += 1;
            assert!(!named("BEGIN") && !named("COMMIT"), "{inside:#?}");
        }
    }
    assert!(locked > 0 && unlocked > 0, "{batches:#?}");
    let lookups = find(&spans, |span| span.name == "lookup.batch");
    let read = |span: &CollectedSpan| lookups.iter().any(|lookup| lookup.span_id == span.parent_span_id);
    assert!(spans.iter().any(|span| read(span) && span.name == "SELECT events"), "reads are traced");

    assert!(find(&spans, |span| hex(&span.trace_id) == NOT_SAMPLED).is_empty());
    let everything = format!("{spans:?}");
    assert!(!everything.contains("Bearer") && !everything.contains(&Uuid::from_u128(2).to_string()));
    // Whoever is not recorded can be found in the logs.
    let ended = |line: &serde_json::Value, trace: &str| {
        line["message"] == "call ended" && line["span"]["trace_id"] == trace
    };
    let lines: Vec<serde_json::Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for trace in [SAMPLED, NOT_SAMPLED] {
        assert!(lines.iter().any(|line| ended(line, trace) && line["span"]["span_id"].is_string()), "{log}");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let scene = Scene::start(&["--otlp-endpoint", "http://127.0.0.1:1", "--otlp-sample-ratio", "1"]).await;
    let organizer = scene.caller(1, Role::Organizer);
    organizer.publish_new(draft(1)).await;
    let lost = "trace_spans_dropped_total{reason=\"export_failed\"}";
    eventually(async || counted(&get(scene.serving.http, "/metrics").await.1, lost) > 0).await;
    let (status, log) = scene.serving.stop("-TERM");
    assert!(status.success());
    assert!(log.contains("traces cannot be sent"), "{log}");
}

#[tokio::test]
async fn without_a_collector_the_logs_have_the_callers_trace() {
    let scene = Scene::start(&["--log-filter", "info,service_core=debug"]).await;
    let organizer = scene.caller(1, Role::Organizer);
    let list = traced(pb::ListEventsRequest::default(), SAMPLED, PARENT, "01");
    organizer.events().list_events(list).await.unwrap();
    let (_, log) = scene.serving.stop("-TERM");
    let ids = format!("\"trace_id\":\"{SAMPLED}\"");
    assert!(
        log.lines().any(|line| line.contains("call ended") && line.contains(&ids) && line.contains(PARENT)),
        "{log}"
    );
}
