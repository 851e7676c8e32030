//! W3C trace context: `traceparent` and `tracestate` in the metadata of calls.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// Where the caller is, if it says so in a way that can be understood.
pub(super) fn caller(headers: &HeaderMap) -> Option<SpanContext> {
    // Most callers do not.
    headers.get("traceparent")?;
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
    let caller = context.span().span_context().clone();
    caller.is_valid().then_some(caller)
}

/// Tells the one who is called where `context` is.
pub(super) fn tell(context: &Context, headers: &mut HeaderMap) {
    TraceContextPropagator::new().inject_context(context, &mut HeadersMut(headers));
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate says nothing.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(parent: &str, state: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", parent.parse().unwrap());
        if let Some(state) = state {
            headers.insert("tracestate", state.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_a_caller_says_is_told_on() {
        let given = headers(CALLER, Some("vendor=a,other=b"));
        let caller = caller(&given).unwrap();
        assert_eq!(caller.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(caller.span_id().to_string(), "b7ad6b7169203331");
        assert!(caller.is_sampled());
        let mut told = HeaderMap::new();
        tell(&Context::new().with_remote_span_context(caller), &mut told);
        assert_eq!(told, given);
    }

    #[test]
    fn who_does_not_want_to_be_traced_says_so() {
        let caller = caller(&headers(&CALLER.replace("-01", "-00"), None)).unwrap();
        assert!(!caller.is_sampled());
        let mut told = HeaderMap::new();
        tell(&Context::new().with_remote_span_context(caller), &mut told);
        assert!(told["traceparent"].to_str().unwrap().ends_with("-00"));
        assert!(!told.contains_key("tracestate"));
    }

    #[test]
    fn a_malformed_context_is_none() {
        let zero = CALLER.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        for parent in
            ["", "00", "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &zero, &CALLER[..40]]
        {
            assert!(caller(&headers(parent, None)).is_none(), "{parent:?}");
        }
        let mut bytes = HeaderMap::new();
        bytes.insert("traceparent", HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(caller(&bytes).is_none());
        assert!(caller(&HeaderMap::new()).is_none());
    }
}
