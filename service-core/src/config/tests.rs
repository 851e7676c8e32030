use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::*;
use crate::auth::Role;

#[derive(Parser, Debug)]
struct Options {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

type Checks = (DatabaseConfig, ServerConfig, TelemetryConfig);

fn check(arguments: &[&str]) -> Result<Checks, String> {
    let options =
        Options::try_parse_from([&["test"], arguments].concat()).map_err(|error| error.to_string())?;
    let defaults = ServerDefaults {
        grpc: ([0, 0, 0, 0], 50_051).into(),
        http: ([0, 0, 0, 0], 9_051).into(),
        limited: &[Role::Attendee],
    };
    let mut errors = ConfigErrors::default();
    let checks = (
        options.database.check(&mut errors),
        options.server.check(defaults, &mut errors),
        options.telemetry.check(&mut errors),
    );
    errors.finish().map_err(|errors| errors.to_string())?;
    Ok(checks)
}

const URL: &str = "postgres://rowlock:hunter2@db.example:6432/booking";

#[test]
fn a_database_url_is_enough() {
    let (database, server, telemetry) = check(&["--database-url", URL]).unwrap();
    assert_eq!(database.url.expose(), URL);
    assert_eq!((database.max_connections, database.connect_timeout), (8, Duration::from_secs(5)));
    assert_eq!((server.grpc_addr.port(), server.http_addr.port(), server.reflection), (50_051, 9_051, true));
    assert_eq!((server.max_message_bytes, server.default_deadline), (1 << 20, Duration::from_secs(30)));
    assert_eq!((telemetry.format, telemetry.filter.as_str()), (LogFormat::Json, "info"));
}

#[test]
fn every_error_is_reported_in_one_run() {
    let errors = check(&[
        "--database-url=mysql://x",
        "--database-max-connections=0",
        "--database-lock-timeout=soon",
        "--grpc-addr=50051",
        "--http-addr=localhost",
        "--reflection=yes",
        "--max-message-bytes=-1",
        "--default-deadline=1d",
        "--drain-grace=1y",
        "--log-format=xml",
        "--log-filter=a=b=c",
    ])
    .unwrap_err();
    for name in [
        "--database-url (ROWLOCK_DATABASE_URL)",
        "--database-max-connections (ROWLOCK_DATABASE_MAX_CONNECTIONS)",
        "--database-lock-timeout (ROWLOCK_DATABASE_LOCK_TIMEOUT)",
        "--grpc-addr (ROWLOCK_GRPC_ADDR)",
        "--http-addr (ROWLOCK_HTTP_ADDR)",
        "--reflection (ROWLOCK_REFLECTION)",
        "--max-message-bytes (ROWLOCK_MAX_MESSAGE_BYTES)",
        "--default-deadline (ROWLOCK_DEFAULT_DEADLINE)",
        "--drain-grace (ROWLOCK_DRAIN_GRACE)",
        "--log-format (ROWLOCK_LOG_FORMAT)",
        "--log-filter (ROWLOCK_LOG_FILTER)",
    ] {
        assert_eq!(errors.matches(name).count(), 1, "{name} in {errors}");
    }
    assert!(errors.starts_with("the configuration has 11 error(s):"), "{errors}");
}

#[test]
fn a_missing_database_url_is_named() {
    assert!(check(&[]).unwrap_err().contains("--database-url (ROWLOCK_DATABASE_URL) is required"));
}

#[test]
fn neither_errors_nor_debug_show_a_password() {
    let wrong = check(&["--database-url", "postgres://rowlock:hunter2@db:port/x"]).unwrap_err();
    assert!(!wrong.contains("hunter2"), "{wrong}");
    let misplaced = check(&["--database-url", URL, "--grpc-addr", URL]).unwrap_err();
    assert!(!misplaced.contains("hunter2"), "{misplaced}");
    let (database, ..) = check(&["--database-url", URL]).unwrap();
    let debug = format!("{database:?}");
    assert!(debug.contains("db.example") && !debug.contains("hunter2"), "{debug}");
    let parsed = format!("{:?}", Options::try_parse_from(["test", "--database-url", URL]).unwrap());
    assert!(parsed.contains("database_url: Some") && !parsed.contains("hunter2"), "{parsed}");
}

#[test]
fn a_secret_is_read_from_a_file_without_its_last_line_end() {
    let file = std::env::temp_dir().join(format!("rowlock-secret-{}", std::process::id()));
    std::fs::write(&file, format!("{URL}\n")).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(check(&["--database-url-file", path]).unwrap().0.url.expose(), URL);
    let both = check(&["--database-url-file", path, "--database-url", URL]).unwrap_err();
    assert!(both.contains("are both set"), "{both}");
    std::fs::write(&file, "\n").unwrap();
    assert!(check(&["--database-url-file", path]).unwrap_err().contains("is set but empty"));
    std::fs::remove_file(&file).unwrap();
    let missing = check(&["--database-url-file", path]).unwrap_err();
    assert!(missing.contains("cannot be read from") && missing.contains(path), "{missing}");
    assert!(!missing.contains("is required"), "{missing}");
}

#[test]
fn durations_have_a_unit() {
    for (text, millis) in
        [("250ms", 250), ("5s", 5_000), ("7", 7_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)]
    {
        assert_eq!(text.parse(), Ok(Period(Duration::from_millis(millis))), "{text}");
    }
    assert_eq!("2d".parse(), Ok(Period(Duration::from_secs(172_800))));
    for text in ["", "s", "5x", "-1s", "1.5s", "5 s", "99999999999999999999s", "18446744073709551615d"] {
        assert_eq!(text.parse::<Period>(), Err(NotAPeriod), "{text:?}");
    }
}

#[test]
fn the_defaults_that_help_shows_are_those_of_the_configuration() {
    let (database, server, _) = check(&["--database-url", URL]).unwrap();
    let plain = DatabaseConfig::from_url(URL).unwrap();
    let defaults =
        ServerDefaults { grpc: server.grpc_addr, http: server.http_addr, limited: &[Role::Attendee] };
    assert_eq!(format!("{server:?}"), format!("{:?}", ServerConfig::at(defaults)));
    let timeouts = |c: &DatabaseConfig| {
        (
            c.max_connections,
            c.connect_timeout,
            c.statement_timeout,
            c.lock_timeout,
            c.idle_in_transaction_timeout,
        )
    };
    assert_eq!(timeouts(&database), timeouts(&plain));
}

#[test]
fn a_misspelt_variable_is_noticed() {
    let names = [
        "ROWLOCK_GRPC_ADR",
        "ROWLOCK_GRPC_ADDR",
        "ROWLOCK_LOCAL_PORT_BASE",
        "ROWLOCK_TEST_DATABASE_URL",
        "ROWLOCK_BOOKING_CHECK_DATABASE_URL",
        "ROWLOCK_IDENTITY_SERVICE_HOST",
        "ROWLOCK_IDENTITY_PORT_50051_TCP_ADDR",
        "HOME",
    ];
    let unknown = unknown_variables(&Options::command(), names.into_iter().map(str::to_owned));
    assert_eq!(unknown, ["ROWLOCK_GRPC_ADR"]);
}
