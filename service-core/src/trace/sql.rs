//! Statements as spans.
//!
//! The driver tells of every statement after it, as an event of `tracing`. Made into spans here, all of them are covered, and
//! no code that asks the database has to think of it. What they say is the text with its placeholders, never a value.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, time};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::Context as LayerContext;
use tracing_subscriber::registry::LookupSpan;

use super::TRACER;

/// What the driver calls these events.
const TARGET: &str = "sqlx::query";

/// Makes statements within a recorded span into spans of their own.
pub(crate) fn statements<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let wanted = dynamic_filter_fn(|metadata: &Metadata<'_>, _: &LayerContext<'_, S>| {
        metadata.target() == TARGET && Context::map_current(|context| context.span().is_recording())
    });
    let callsites = |metadata: &'static Metadata<'static>| {
        if metadata.target() == TARGET { Interest::sometimes() } else { Interest::never() }
    };
    Statements.with_filter(wanted.with_callsite_filter(callsites).with_max_level_hint(LevelFilter::DEBUG))
}

struct Statements;

impl<S: Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let Some(tracer) = TRACER.get() else { return };
        let mut told = Told::default();
        event.record(&mut told);
        let text = without_values(told.text());
        let text: Vec<&str> = text.split_whitespace().collect();
        let operation = operation(&text);
        let name = summary(&operation, &text);
        let mut attributes = attributes(operation);
        attributes.extend([
            KeyValue::new("db.query.summary", name.clone()),
            KeyValue::new("db.query.text", text.join(" ")),
            KeyValue::new("db.response.returned_rows", told.rows_returned),
        ]);
        let (end, parent) = (time::now(), Context::current());
        let start = end.checked_sub(told.elapsed).unwrap_or(end);
        tracer
            .span_builder(name)
            .with_kind(SpanKind::Client)
            .with_start_time(start)
            .with_attributes(attributes)
            .start_with_context(tracer, &parent)
            .end_with_timestamp(end);
    }
}

/// What every statement's span says.
pub(super) fn attributes(operation: impl Into<opentelemetry::Value>) -> Vec<KeyValue> {
    vec![KeyValue::new("db.system.name", "postgresql"), KeyValue::new("db.operation.name", operation)]
}

/// The text with its quoted values replaced, as the semantic conventions ask: a message of several statements has no
/// placeholders. Where a quote may be something else than the begin or the end of a value, nothing from the first one on is told.
fn without_values(text: &str) -> Cow<'_, str> {
    let dollars = text.match_indices('$').map(|(at, _)| at);
    let dollar = dollars.into_iter().find(|at| !text[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    let Some(first) = text.find('\'').into_iter().chain(dollar).min() else {
        return Cow::Borrowed(text);
    };
    let outside = || text.split('\'').step_by(2);
    // `E'\''`, `$tag$it's$tag$`, `-- it's`, `/* it's */`, `"it's"`.
    let unclear = dollar.is_some()
        || text.contains('\\')
        || outside().any(|piece| {
            piece.contains("--") || piece.contains("/*") || !piece.matches('"').count().is_multiple_of(2)
        });
    Cow::Owned(if unclear {
        let (told, _) = text.split_at(first);
        format!("{told}'?'")
    } else {
        let pieces = text.split('\'').enumerate();
        pieces.map(|(number, piece)| if number % 2 == 0 { piece } else { "'?'" }).collect()
    })
}

/// What the statement does. One that comes with its BEGIN is what comes after it.
fn operation(text: &[&str]) -> String {
    text.iter().find(|word| **word != "BEGIN;").copied().unwrap_or_default().to_uppercase()
}

/// The operation and the first table, such as `SELECT events`, or what is executed.
fn summary(operation: &str, text: &[&str]) -> String {
    let is_before_table =
        |word: &str| ["FROM", "INTO", "UPDATE", "EXECUTE"].contains(&word.to_uppercase().as_str());
    let table = text.iter().position(|word| is_before_table(word)).and_then(|at| text.get(at + 1));
    let table = table.and_then(|word| word.split('(').next());
    let table = table.map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    match table {
        // Not a table but what is made of the statement's arguments.
        Some(table) if !table.is_empty() && !table.starts_with("unnest") => format!("{operation} {table}"),
        _ => operation.to_owned(),
    }
}

/// What the driver tells of a statement.
#[derive(Default)]
struct Told {
    summary: String,
    statement: String,
    rows_returned: i64,
    elapsed: Duration,
}

impl Told {
    /// The statement; one that is short is its own summary.
    fn text(&self) -> &str {
        if self.statement.is_empty() { &self.summary } else { &self.statement }
    }
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.rows_returned = i64::try_from(value).unwrap_or(i64::MAX);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.elapsed = Duration::try_from_secs_f64(value).unwrap_or_default();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_after_what_it_does_and_the_first_table() {
        for (statement, name) in [
            ("SELECT id, '' AS x FROM events WHERE id = ANY($1) FOR UPDATE", "SELECT events"),
            ("insert into users (id) values ($1)", "INSERT users"),
            (
                "UPDATE registrations r SET state = c.state FROM unnest($1::uuid[]) AS c",
                "UPDATE registrations",
            ),
            ("WITH a AS (SELECT 1 FROM \"users\") SELECT 2", "WITH users"),
            ("SELECT x FROM unnest($1::uuid[]) AS x", "SELECT"),
            ("DISCARD PLANS", "DISCARD"),
            ("BEGIN; EXECUTE lock_events('{0, 1}')", "EXECUTE lock_events"),
            ("", ""),
        ] {
            let words: Vec<&str> = statement.split_whitespace().collect();
            assert_eq!(summary(&operation(&words), &words), name, "{statement}");
        }
    }

    #[test]
    fn no_quoted_value_is_told() {
        for (statement, told) in [
            ("EXECUTE lock_events('{0, 1}')", "EXECUTE lock_events('?')"),
            ("SELECT 'a', 'it''s', x", "SELECT '?', '?''?', x"),
            ("SELECT 'open", "SELECT '?'"),
            (r#"SELECT 'a"--' AS "b!""#, r#"SELECT '?' AS "b!""#),
            (r"SELECT E'\'', 'secret', x", "SELECT E'?'"),
            ("SELECT $$it's$$, 'secret'", "SELECT '?'"),
            ("SELECT $1, $q$secret$q$", "SELECT $1, '?'"),
            ("SELECT 'a', $q$it's$q$, 'secret'", "SELECT '?'"),
            ("SELECT x -- it's\n, 'secret'", "SELECT x -- it'?'"),
            ("SELECT /* it's */ 'secret'", "SELECT /* it'?'"),
            (r#"SELECT "it's", 'secret'"#, r#"SELECT "it'?'"#),
            ("SELECT $", "SELECT '?'"),
            ("SELECT $1", "SELECT $1"),
        ] {
            assert_eq!(without_values(statement), told);
        }
    }
}
