//! Which traces are recorded.

use opentelemetry::Context;
use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// A caller's decision counts; without one, `ratio` of the traces is recorded.
pub(super) fn parent_based(ratio: f64) -> Sampler {
    Sampler::ParentBased(Box::new(Roots { ratio: Sampler::TraceIdRatioBased(ratio) }))
}

/// Decides for the first span of a trace.
#[derive(Clone, Debug)]
struct Roots {
    ratio: Sampler,
}

impl ShouldSample for Roots {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[opentelemetry::KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.ratio.should_sample(parent, trace_id, name, kind, attributes, links);
        // Work for many is recorded if it is for one who is: a trace that leads to it must not end there.
        if links.iter().any(|link| link.span_context.is_sampled()) {
            result.decision = SamplingDecision::RecordAndSample;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceState};

    use super::*;

    fn somebody(flags: TraceFlags) -> SpanContext {
        SpanContext::new(TraceId::from(7), SpanId::from(7), flags, true, TraceState::default())
    }

    fn sampled(ratio: f64, parent: Option<TraceFlags>, links: &[TraceFlags]) -> bool {
        let parent = parent.map(|flags| Context::new().with_remote_span_context(somebody(flags)));
        let links: Vec<Link> = links.iter().map(|flags| Link::new(somebody(*flags), Vec::new(), 0)).collect();
        let trace = TraceId::from(1 << 60);
        let result =
            parent_based(ratio).should_sample(parent.as_ref(), trace, "x", &SpanKind::Server, &[], &links);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn a_caller_decides_and_otherwise_the_ratio_does() {
        assert!(sampled(0.0, Some(TraceFlags::SAMPLED), &[]));
        assert!(!sampled(1.0, Some(TraceFlags::NOT_SAMPLED), &[]));
        assert!(sampled(1.0, None, &[]));
        assert!(!sampled(0.0, None, &[]));
    }

    #[test]
    fn work_for_many_is_recorded_for_one_who_is() {
        assert!(sampled(0.0, None, &[TraceFlags::NOT_SAMPLED, TraceFlags::SAMPLED]));
        assert!(!sampled(0.0, None, &[TraceFlags::NOT_SAMPLED]));
    }
}
