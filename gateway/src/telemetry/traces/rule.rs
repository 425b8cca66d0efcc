//! Which requests leave a trace.

use super::Record;
use crate::telemetry::ids::TraceContext;
use crate::telemetry::record::Cause;
use tidegate_config::Traces;

/// What the file says about traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(Traces);

impl Rule {
    /// Of these settings.
    pub fn new(settings: Traces) -> Self {
        Self(settings)
    }

    /// The settings.
    pub fn settings(&self) -> &Traces {
        &self.0
    }

    /// What is known when a request arrives: whether its trace is one of the share, or its caller keeps it. Backends are told
    /// the same.
    pub fn begin(&self, trace: &mut TraceContext) {
        if !(self.0.parent && trace.continued()) {
            trace.sample(trace.is_in(self.0.sample.of_one()));
        }
    }

    /// Whether a request that is over is kept.
    pub fn keeps(&self, record: &Record) -> bool {
        let failed = || match record.cause {
            Cause::Gateway | Cause::UpstreamError | Cause::UpstreamTimeout | Cause::UpstreamOverload => true,
            Cause::None | Cause::Client | Cause::Validation | Cause::Limit | Cause::Auth | Cause::ClientGone => false,
        };
        let slow = || self.0.slow.is_some_and(|slow| record.duration() >= slow);
        record.trace.sampled() || self.0.errors && failed() || slow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::RequestId;
    use serde_json::json;
    use std::time::Duration;

    fn rule(mut settings: serde_json::Value) -> Rule {
        settings["endpoint"] = "http://127.0.0.1:4318".into();
        Rule::new(serde_json::from_value(settings).unwrap())
    }

    fn record(rule: &Rule, parent: Option<&str>) -> Record {
        let mut trace = TraceContext::accept(parent);
        rule.begin(&mut trace);
        Record::new(RequestId::new(), trace, http::Method::POST, "/v1")
    }

    const TRACED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const UNTRACED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_caller_that_traces_is_followed_unless_the_file_says_otherwise() {
        let none = rule(json!({ "sample": "0%" }));
        assert!(none.keeps(&record(&none, Some(TRACED))) && !none.keeps(&record(&none, None)));
        let all = rule(json!({}));
        assert!(!all.keeps(&record(&all, Some(UNTRACED))) && all.keeps(&record(&all, None)));
        let own = rule(json!({ "parent": false }));
        assert!(own.keeps(&record(&own, Some(UNTRACED))));
        let own = rule(json!({ "parent": false, "sample": "0%" }));
        assert!(!own.keeps(&record(&own, Some(TRACED))));
    }

    #[test]
    fn what_failed_and_what_was_slow_is_kept_whatever_the_share() {
        let rule = rule(json!({ "sample": "0%", "slow": "2s" }));
        let mut failed = record(&rule, None);
        failed.cause = Cause::UpstreamTimeout;
        let mut refused = record(&rule, None);
        refused.cause = Cause::Limit;
        let mut slow = record(&rule, None);
        slow.ended = slow.started + Duration::from_secs(2);
        assert_eq!([&failed, &refused, &slow].map(|record| rule.keeps(record)), [true, false, true]);
    }

    #[test]
    fn a_share_is_chosen_by_the_traces_id() {
        let half = rule(json!({ "sample": "50%" }));
        let kept = (0..2000).filter(|_| half.keeps(&record(&half, None))).count();
        assert!((800..1200).contains(&kept), "{kept}");
        let trace = TraceContext::start();
        assert!(trace.is_in(1.0) && !trace.is_in(0.0) && trace.is_in(0.5) == trace.is_in(0.5));
    }
}
