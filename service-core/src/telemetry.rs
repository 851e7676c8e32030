//! Logs to standard error, metrics for Prometheus, and traces if a collector is configured.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::span::Record;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogFormat, TelemetryConfig};
use crate::trace;

/// Gives the metrics of this process.
#[derive(Clone, Debug)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// A span's fields as JSON, to which those that become known later are appended. The library's own reads back and writes anew
/// what is there, for each call that says who makes it.
#[derive(Default)]
struct SpanFields(JsonFields);

impl<'writer> FormatFields<'writer> for SpanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer, fields)
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let mut more = String::new();
        self.0.format_fields(Writer::new(&mut more), fields)?;
        let (Some(head), Some(tail)) = (current.fields.strip_suffix('}'), more.strip_prefix('{')) else {
            current.fields = more;
            return Ok(());
        };
        let comma = if head.ends_with('{') || tail.starts_with('}') { "" } else { "," };
        current.fields = format!("{head}{comma}{tail}");
        Ok(())
    }
}

/// The recorder can be installed once a process, but tests start many servers in one.
static INSTALLED: Mutex<Option<MetricsHandle>> = Mutex::new(None);

/// In seconds; from an answer out of memory to a call that waits for its deadline.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// How much is done at once.
const SIZE_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// How often drawn samples are folded into the histograms when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Has panics logged like everything else, with what they say and where they came from, instead of printed beside the log.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, panic = panic.payload_as_str(), "a panic");
    }));
}

/// Begins to log, to count, and to trace if that is configured. If the process already does, only the handle is given. To be
/// called within a tokio runtime.
///
/// # Errors
/// If the filter is malformed, or another metrics recorder is installed.
pub fn init(config: &TelemetryConfig) -> anyhow::Result<MetricsHandle> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let filter = EnvFilter::try_new(&config.filter).context("the log filter is malformed")?;
    // A level needs no such filter, which takes a lock each time that a span is entered or left.
    let level = config.filter.parse::<LevelFilter>().ok();
    let colours = std::io::stderr().is_terminal();
    // Its type holds what is below it.
    macro_rules! logs {
        () => {
            tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours)
        };
    }
    macro_rules! json {
        () => {
            logs!().json().flatten_event(true).fmt_fields(SpanFields::default())
        };
    }
    // A test may have a subscriber of its own already; that one stays.
    let registry = tracing_subscriber::registry();
    let _ = match (&config.traces, config.format) {
        (None, LogFormat::Json) => match level {
            Some(level) => registry.with(level).with(json!()).try_init(),
            None => registry.with(filter).with(json!()).try_init(),
        },
        (None, LogFormat::Pretty) => match level {
            Some(level) => registry.with(level).with(logs!()).try_init(),
            None => registry.with(filter).with(logs!()).try_init(),
        },
        // The filter is that of the logs alone: statements are traced whatever is logged.
        (Some(_), LogFormat::Json) => {
            registry.with(trace::statements()).with(json!().with_filter(filter)).try_init()
        }
        (Some(_), LogFormat::Pretty) => {
            registry.with(trace::statements()).with(logs!().with_filter(filter)).try_init()
        }
    };
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_commands".to_owned()), &SIZE_BUCKETS)?
        .install_recorder()
        .context("a metrics recorder is already installed")?;
    let handle = MetricsHandle(recorder);
    if let Some(traces) = &config.traces {
        trace::start(traces);
    }
    let upkeep = handle.clone();
    std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            upkeep.0.run_upkeep();
        }
    })?;
    *installed = Some(handle.clone());
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing::field::Empty;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Page {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn what_becomes_known_of_a_span_stands_in_the_lines_after_it() {
        let page = Page::default();
        let json = tracing_subscriber::fmt::layer().with_writer(page.clone()).json().flatten_event(true);
        let subscriber = tracing_subscriber::registry().with(json.fmt_fields(SpanFields::default()));
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("call", rpc = "Register", user = Empty, odd = Empty);
            span.record("user", "ada").record("odd", "}\"{,");
            span.in_scope(|| tracing::info!("a line"));
            let bare = tracing::info_span!("bare", user = Empty);
            bare.record("user", 7);
            bare.in_scope(|| tracing::info!("another"));
        });
        let page = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            page.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let call = serde_json::json!({ "name": "call", "rpc": "Register", "user": "ada", "odd": "}\"{," });
        assert_eq!((&lines[0]["message"], &lines[0]["span"]), (&"a line".into(), &call));
        assert_eq!(lines[1]["span"], serde_json::json!({ "name": "bare", "user": 7 }));
    }
}
