//! The binary: its commands, its complaints, its logs and its end.

use booking_service::MIGRATOR;
use booking_service::cli::Cli;
use clap::CommandFactory;
use futures_util::future::join_all;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::test_support::{Serving, TestCluster, TestDatabase, TokenMint, counted, program, run};
use sqlx::migrate::Migrator;
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::acts::{ask, draft};
use crate::caller::Caller;
use crate::child::{binary, serve};
use crate::identity::Identity;
use crate::proof::id;
use crate::refusal::{assert_refused, refused};
use crate::system::{eventually, get};

static NOTHING: Migrator = Migrator::DEFAULT;

/// A database, and an identity-service whose tokens the mint makes.
struct Surroundings {
    database: TestDatabase,
    mint: TokenMint,
    identity: Identity,
}

impl Surroundings {
    async fn make() -> Self {
        Self::with(&MIGRATOR, "booking").await
    }

    async fn with(migrator: &'static Migrator, template: &str) -> Self {
        let mint = TokenMint::new();
        let identity = Identity::start(&mint).await;
        Self { database: TestCluster::database(template, migrator).await, mint, identity }
    }

    async fn serving(&self, filter: &str) -> Serving {
        let mut command = serve(&self.database.url, self.identity.address);
        command.args(["--log-filter", filter, "--register-rate", "off"]);
        let serving = Serving::start(command);
        eventually(async || get(serving.http, "/readyz").await.0.contains(" 200")).await;
        serving
    }

    fn caller(&self, serving: &Serving, number: u128, role: Role) -> Caller {
        let user = Uuid::from_u128(number);
        let channel = Endpoint::from_shared(format!("http://{}", serving.grpc)).unwrap().connect_lazy();
        Caller::new(user, &self.mint.token(user, role), channel)
    }
}

/// `serve` that must not come up: its one complaint.
fn serve_fails(command: std::process::Command) -> String {
    let (code, _, err) = run(command, "");
    assert_eq!(code, 1, "{err}");
    let complaints: Vec<&str> =
        err.lines().filter(|line| line.starts_with("booking-service: error:")).collect();
    let [line] = complaints.as_slice() else { panic!("{err}") };
    (*line).to_owned()
}

#[test]
fn the_page_of_options_is_what_the_options_say() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/options/booking-service.md");
    service_core::test_support::assert_reference(&Cli::command(), std::path::Path::new(page));
}

#[test]
fn help_names_every_option_and_its_environment_variable() {
    let (code, out, _) = run(binary(&["--help"]), "");
    assert_eq!(code, 0);
    let command = Cli::command();
    for subcommand in command.get_subcommands() {
        assert!(out.contains(&format!("\n  {}", subcommand.get_name())), "{out}");
        let (code, out, _) = run(binary(&[subcommand.get_name(), "--help"]), "");
        assert_eq!(code, 0);
        for option in subcommand.get_arguments().filter(|option| option.get_id() != "help") {
            let name = option.get_long().unwrap();
            assert!(out.contains(&format!("--{name} ")), "--{name} is missing in {out}");
            assert!(option.get_help().is_some(), "--{name} is not explained");
            match option.get_env() {
                Some(variable) => {
                    let variable = variable.to_str().unwrap();
                    assert!(variable.starts_with("ROWLOCK_"), "{variable}");
                    let named = |end| out.contains(&format!("[env: {variable}{end}"));
                    assert!(named("=") || named("]"), "{variable} is missing in {out}");
                }
                None => assert!(
                    !["serve", "migrate"].contains(&subcommand.get_name()),
                    "--{name} has no variable"
                ),
            }
        }
    }
    assert_eq!(run(binary(&["--version"]), "").0, 0);
    assert_eq!(run(binary(&["serve", "--no-such-option"]), "").0, 2);
    assert_eq!(run(binary(&[]), "").0, 2);
}

#[test]
fn every_error_of_the_configuration_is_reported_in_one_run_without_secrets() {
    let mut command = binary(&["serve"]);
    let wrong = [
        ("ROWLOCK_DATABASE_URL", "mysql://somebody:hunter2hunter2@db/x"),
        ("ROWLOCK_GRPC_ADDR", "50052"),
        ("ROWLOCK_IDENTITY_ADDR", "not a url"),
        ("ROWLOCK_TOKEN_ISSUER", " "),
        ("ROWLOCK_SEATING_SESSIONS", "0"),
        ("ROWLOCK_SEATING_QUEUE", "many"),
        ("ROWLOCK_EVENT_LOCK_TIMEOUT", "11s"),
        ("ROWLOCK_REGISTER_RATE", "0/s"),
        ("ROWLOCK_LOG_FORMAT", "xml"),
    ];
    command.envs(wrong).env("ROWLOCK_SEATING_SESSIONZ", "2");
    let (code, out, err) = run(command, "");
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for (name, _) in wrong {
        assert_eq!(err.matches(&format!("({name})")).count(), 1, "{name} in {err}");
    }
    assert!(err.contains(&format!("{} error(s)", wrong.len())), "{err}");
    assert!(err.contains("ROWLOCK_SEATING_SESSIONZ is not known"), "{err}");
    assert!(!err.contains("hunter2"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_refuses_a_database_without_its_schema_and_migrate_makes_it() {
    let surroundings = Surroundings::with(&NOTHING, "empty").await;
    let line = serve_fails(serve(&surroundings.database.url, surroundings.identity.address));
    assert!(line.contains("lacks") && line.contains("migrate"), "{line}");
    let migrate = || {
        let mut command = binary(&["migrate"]);
        command.env("ROWLOCK_DATABASE_URL", &surroundings.database.url);
        run(command, "")
    };
    let (code, out, err) = migrate();
    assert!(code == 0 && out.contains("migration(s) applied"), "{out}{err}");
    let (code, out, err) = migrate();
    assert!(code == 0 && out.contains("up to date"), "{out}{err}");
    let serving = surroundings.serving("info").await;
    let organizer = surroundings.caller(&serving, 1, Role::Organizer);
    organizer.publish_new(draft(1)).await;
    let (status, log) = serving.stop("-TERM");
    assert_eq!(status.code(), Some(0), "{log}");

    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', true, '\\x00', 0)",
    )
    .execute(&surroundings.database.pool(1))
    .await
    .unwrap();
    let line = serve_fails(serve(&surroundings.database.url, surroundings.identity.address));
    assert!(line.contains("9999"), "{line}");
    let (code, _, err) = migrate();
    assert!(code == 1 && err.contains("9999"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_stops_the_start_with_one_line() {
    let surroundings = Surroundings::make().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (grpc, http) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", address.as_str())] {
        let mut command = binary(&["serve", "--grpc-addr", grpc, "--http-addr", http]);
        command.env("ROWLOCK_DATABASE_URL", &surroundings.database.url);
        let line = serve_fails(command);
        assert!(line.contains(&format!("address {address} is already in use")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_whether_a_server_serves() {
    let surroundings = Surroundings::make().await;
    let serving = surroundings.serving("info").await;
    let address = format!("http://{}", serving.grpc);
    for service in ["", "rowlock.booking.v1.EventService", "rowlock.booking.v1.SimulationService"] {
        let (code, out, err) = run(binary(&["health", "--addr", &address, "--service", service]), "");
        assert_eq!((code, out.as_str()), (0, "serving\n"), "{err}");
    }
    let (code, _, err) = run(binary(&["health", "--addr", &address, "--service", "no.such.Service"]), "");
    assert_eq!(code, 1, "{err}");
    let (head, metrics) = get(serving.http, "/metrics").await;
    assert!(head.contains(" 200") && metrics.contains(r#"code="OK"}"#), "{metrics}");
    assert!(get(serving.http, "/livez").await.0.contains(" 200"));
    serving.stop("-TERM");
    let (code, _, err) = run(binary(&["health", "--addr", &address]), "");
    assert_eq!(code, 1, "{err}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_start_raises_the_limit_of_open_files_as_far_as_the_system_lets_it() {
    let surroundings = Surroundings::make().await;
    let serve = serve(&surroundings.database.url, surroundings.identity.address);
    let mut limited = program("sh", &["-c", r#"ulimit -Sn 256 && exec "$0" "$@""#]);
    limited.arg(serve.get_program()).args(serve.get_args());
    limited.env("ROWLOCK_DATABASE_URL", &surroundings.database.url);
    let serving = Serving::start(limited);
    eventually(async || {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", serving.pid())).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let [soft, hard, _] = files.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{files}") };
        soft == hard
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_filter_may_ask_for_the_end_of_every_call() {
    let surroundings = Surroundings::make().await;
    for (filter, is_told) in [("info,[grpc]=debug", true), ("info", false)] {
        let serving = surroundings.serving(filter).await;
        surroundings.caller(&serving, 1, Role::Organizer).publish_new(draft(3)).await;
        let (_, log) = serving.stop("-TERM");
        let ended = |line: &str| line.contains("call ended") && line.contains(r#""code":"OK""#);
        assert_eq!(log.lines().any(ended), is_told, "{filter}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_does_shows_in_its_metrics() {
    let surroundings = Surroundings::make().await;
    let serving = surroundings.serving("info").await;
    let organizer = surroundings.caller(&serving, 1, Role::Organizer);
    let event = organizer.publish_new(draft(3)).await;
    let service = surroundings.caller(&serving, 2, Role::Service);
    for user in [100, 101] {
        let user_id = Uuid::from_u128(user).to_string();
        service.try_register(pb::RegisterRequest { user_id, ..ask(&event) }).await.unwrap();
    }
    let shown = [
        "booking_seats_sold_total 2\n",
        "booking_queue_commands 0\n",
        "booking_batch_lock_seconds_count ",
        "booking_batch_commit_seconds_count ",
        "booking_holds_due 0\n",
        "booking_offers_due 0\n",
        "db_pool_connections{state=\"used\"} ",
        "db_pool_connections_max 8\n",
        "ready{check=\"database\"} 1\n",
        "token_verifications_total{outcome=\"remembered\"} ",
    ];
    eventually(async || {
        let (_, metrics) = get(serving.http, "/metrics").await;
        shown.iter().all(|line| metrics.contains(line))
    })
    .await;
    serving.stop("-TERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_last_batch_left_is_not_read_again_and_who_is_known_is_found_all_the_same() {
    let surroundings = Surroundings::make().await;
    let serving = surroundings.serving("info").await;
    let organizer = surroundings.caller(&serving, 1, Role::Organizer);
    let event = organizer.publish_new(draft(10_000)).await;
    let count = async |series| counted(&get(serving.http, "/metrics").await.1, series);
    let mut users = 100..;
    // Whether it is remembered depends on how soon one comes after the other.
    eventually(async || {
        for user in users.by_ref().take(2) {
            surroundings.caller(&serving, user, Role::Attendee).seat(&event).await;
        }
        count("booking_batches_total{facts=\"remembered\"}").await > 0
    })
    .await;
    eventually(async || {
        let known = surroundings.caller(&serving, users.next().unwrap(), Role::Attendee);
        known.seat(&event).await;
        let outdated = "booking_batch_retries_total{code=\"outdated\"}";
        let before = count(outdated).await;
        refused(known.register(&event).await, "ALREADY_REGISTERED");
        count(outdated).await > before
    })
    .await;
    let left = organizer.get_event(&event).await.unwrap().seats_remaining;
    assert_eq!(u128::try_from(10_000 - left).unwrap(), users.start - 100);
    serving.stop("-TERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_in_a_rush_ends_it_with_0_when_everybody_has_an_answer() {
    for signal in ["-TERM", "-INT"] {
        let surroundings = Surroundings::make().await;
        let serving = surroundings.serving("info").await;
        let organizer = surroundings.caller(&serving, 1, Role::Organizer);
        let event = organizer.publish_new(draft(100)).await;
        let pool = surroundings.database.pool(2);
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("SELECT FROM events FOR UPDATE").execute(&mut *tx).await.unwrap();
        let service = surroundings.caller(&serving, 2, Role::Service);
        let rush = tokio::spawn(join_all((0..60_u128).map(|n| {
            let user_id = Uuid::from_u128(100 + n).to_string();
            let (service, request) = (service.clone(), pb::RegisterRequest { user_id, ..ask(&event) });
            async move { service.try_register(request).await }
        })));
        // All of them are in, and none can go on.
        eventually(async || get(serving.http, "/metrics").await.1.contains("\ngrpc_calls_in_flight 60"))
            .await;
        serving.signal(signal);
        eventually(async || get(serving.http, "/readyz").await.0.contains(" 503")).await;
        tx.rollback().await.unwrap();
        for answer in rush.await.unwrap() {
            answer.unwrap();
        }
        let (status, log) = tokio::task::spawn_blocking(|| serving.ended()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM registrations WHERE event_id = $1")
            .bind(id(&event.event_id))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(rows, 60);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_hold_no_token_no_label_and_no_text_at_any_level() {
    let surroundings = Surroundings::make().await;
    let serving = surroundings.serving("trace").await;
    let organizer = surroundings.caller(&serving, 1, Role::Organizer);
    let (ada, service) =
        (surroundings.caller(&serving, 2, Role::Attendee), surroundings.caller(&serving, 3, Role::Service));
    let event =
        organizer.publish_new(pb::Event { description: "quiet-description".to_owned(), ..draft(1) }).await;
    let labels = || [("quiet-key".to_owned(), "quiet-value".to_owned())].into();
    let registration = ada.seats(pb::RegisterRequest { labels: labels(), ..ask(&event) }).await;
    let request = pb::RegisterRequest {
        labels: labels(),
        user_id: Uuid::from_u128(4).to_string(),
        when_full: pb::WhenFull::JoinWaitlist.into(),
        ..ask(&event)
    };
    let _ = service.try_register(request.clone()).await.unwrap();
    service.try_register(request.clone()).await.unwrap_err();
    ada.cancel(&registration.registration_id).await.unwrap();
    let nul = [("quiet-key\0".to_owned(), "quiet-value".to_owned())].into();
    ada.try_register(pb::RegisterRequest { labels: nul, ..ask(&event) }).await.unwrap_err();
    organizer.cancel_event(&event, "quiet-reason").await.unwrap();
    let forged =
        Caller { bearer: crate::caller::Bearer("Bearer quiet.quiet.token".parse().unwrap()), ..ada.clone() };
    forged.get_event(&event).await.unwrap_err();
    // The database refuses something that no rule foresaw: its text is for the log, without what was sent.
    let pool = surroundings.database.pool(1);
    sqlx::query("ALTER TABLE changes ADD CONSTRAINT nothing CHECK (action <> 'REGISTRATION_HELD')")
        .execute(&pool)
        .await
        .unwrap();
    let open = organizer.publish_new(draft(5)).await;
    let hold_duration = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let held = pb::RegisterRequest { hold_duration, labels: labels(), ..ask(&open) };
    let status = ada.try_register(held).await.unwrap_err();
    assert_refused(&status, "INTERNAL_ERROR");
    let request_id = status.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    assert!(!format!("{status:?}").contains("quiet"), "{status:?}");
    // Its neighbours are not refused with it.
    ada.seat(&open).await;

    let (status, log) = serving.stop("-TERM");
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("ALREADY_WAITLISTED") && log.contains("TOKEN_INVALID"), "it logs");
    assert!(log.contains("a command was refused by the database"), "it logs");
    assert!(log.contains(&request_id), "it is found by its request id");
    for caller in [&organizer, &ada, &service] {
        let token = caller.bearer.0.to_str().unwrap();
        assert!(!log.contains(token.rsplit('.').next().unwrap()), "a signature is in the log");
        assert!(!log.contains(token.strip_prefix("Bearer ").unwrap()), "a token is in the log");
    }
    // The forged token, the labels, the description, the reason.
    let line = log.lines().find(|line| line.contains("quiet"));
    assert_eq!(line, None);
}
