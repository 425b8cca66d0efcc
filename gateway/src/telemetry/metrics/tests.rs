use std::time::{Duration, Instant};

use serde_json::json;

use tidegate_plugins::classify::Classifiers;
use tidegate_plugins::keys::KeyMetrics;
use tidegate_plugins::usage::Usage;
use tidegate_plugins::{Registry, Services};

use super::*;
use crate::telemetry::ids::{RequestId, TraceContext};
use crate::telemetry::record::Cause;

fn record() -> Record {
    let mut record = Record::new(RequestId::new(), TraceContext::start(), http::Method::POST, "/v1/chat/completions");
    record.operation = "chat";
    record.status = 200;
    record.attempts = 3;
    record.retried = vec![RetryCause::Connect; 2];
    record.resumes = vec![ResumeOutcome::Won];
    record.stream = true;
    record.first_token = Some(record.started + Duration::from_millis(30));
    record.ended = record.started + Duration::from_millis(130);
    record.overhead = Duration::from_micros(60);
    record.request_bytes = 1024;
    record.usage = Some(Usage { prompt: Some(12), completion: Some(11), ..Usage::default() });
    record
}

/// The value of the series whose line begins so, if there is one.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn a_request_is_counted_by_route_pool_status_and_cause() {
    let metrics = Metrics::new();
    let series = metrics.series("llama", "gpu");
    metrics.observe(&series, &record());
    metrics
        .observe(&metrics.series("llama", "gpu"), &Record { status: 504, cause: Cause::UpstreamTimeout, ..record() });
    let text = metrics.render();
    let of = |series: &str| value(&text, series);
    let both = r#"pool="gpu",route="llama""#;
    assert_eq!(of(r#"tidegate_requests_total{cause="none",pool="gpu",route="llama",status="2xx"}"#), Some(1.0));
    assert_eq!(
        of(r#"tidegate_requests_total{cause="upstream_timeout",pool="gpu",route="llama",status="5xx"}"#),
        Some(1.0)
    );
    assert_eq!(of(&format!(r#"tidegate_failures_total{{cause="upstream_timeout",{both}}}"#)), Some(1.0));
    assert_eq!(of(&format!(r#"tidegate_failures_total{{cause="gateway",{both}}}"#)), Some(0.0));
    assert_eq!(of(&format!(r#"tidegate_retries_total{{cause="connect",{both}}}"#)), Some(4.0));
    assert_eq!(of(&format!("tidegate_request_bytes_total{{{both}}}")), Some(2048.0));
    let overhead = format!("tidegate_overhead_seconds_bucket{{{both},status=\"2xx\",le=");
    assert_eq!(of(&format!("{overhead}\"0.00005\"}}")), Some(0.0));
    assert_eq!(of(&format!("{overhead}\"0.0001\"}}")), Some(1.0));
    let chat = format!(r#"{{error_type="",gen_ai_operation_name="chat",gen_ai_request_model="llama",{both}}}"#);
    assert_eq!(of(&format!("gen_ai_server_request_duration_seconds_sum{chat}")), Some(0.13));
    assert_eq!(of(&format!("gen_ai_server_time_to_first_token_seconds_sum{chat}")), Some(0.03));
    assert_eq!(of(&format!("gen_ai_server_time_per_output_token_seconds_sum{chat}")), Some(0.01));
    let input = r#"{gen_ai_operation_name="chat",gen_ai_request_model="llama",gen_ai_token_type="input","#;
    assert_eq!(of(&format!("gen_ai_client_token_usage_sum{input}{both}}}")), Some(24.0));
}

#[test]
fn what_a_request_says_never_becomes_a_label() {
    let metrics = Metrics::new();
    let series = metrics.series("*", "gpu");
    let mut record = Record { operation: "evil", status: 7, ..record() };
    record.model_asked = Some("evil".into());
    record.user = Some("evil".into());
    record.path = "/evil".into();
    metrics.observe(&series, &record);
    let text = metrics.render();
    assert!(!text.contains("evil"));
    assert!(
        text.contains(r#"error_type="",gen_ai_operation_name="other",gen_ai_request_model="*",pool="gpu",route="*""#)
    );
}

#[test]
fn a_reload_forgets_what_it_removed_and_keeps_the_rest() {
    let metrics = Metrics::new();
    for route in ["old", "new", OTHER_ROUTE] {
        metrics.observe(&metrics.series(route, "gpu"), &record());
    }
    for backend in ["a", "b"] {
        metrics.backend("gpu", backend).failed(BackendFault::Connect);
    }
    for filter in ["limits", "limits#2"] {
        let now = Instant::now();
        metrics.filter(filter).judged(Judged::Answer, (now, now + Duration::from_micros(3)));
    }
    metrics.retain(&[("new", "gpu")], &[("gpu", "b")]);
    metrics.retain_filters(&["limits"]);
    let text = metrics.render();
    assert!(!text.contains("limits#2"));
    assert_eq!(value(&text, r#"tidegate_filter_verdicts_total{filter="limits",verdict="answer"}"#), Some(1.0));
    assert_eq!(value(&text, r#"tidegate_filter_seconds_bucket{filter="limits",le="0.000005"}"#), Some(1.0));
    assert!(!text.contains(r#""old""#) && !text.contains(r#"backend="a""#));
    assert_eq!(value(&text, r#"tidegate_retries_total{cause="connect",pool="gpu",route="new"}"#), Some(2.0));
    assert_eq!(value(&text, r#"tidegate_retries_total{cause="connect",pool="gpu",route="other"}"#), Some(2.0));
    assert_eq!(value(&text, r#"tidegate_backend_errors_total{backend="b",cause="connect",pool="gpu"}"#), Some(1.0));
}

#[test]
fn an_error_is_told_by_type_and_a_success_has_none() {
    let metrics = Metrics::new();
    let series = metrics.series("llama", "gpu");
    for cause in Cause::ALL {
        metrics.observe(&series, &Record { cause, ..record() });
    }
    let text = metrics.render();
    for cause in Cause::ALL {
        let error = if cause == Cause::None { "" } else { cause.label() };
        let of = format!(
            r#"gen_ai_server_request_duration_seconds_count{{error_type="{error}",gen_ai_operation_name="chat",gen_ai_request_model="llama",pool="gpu",route="llama"}}"#
        );
        assert_eq!(value(&text, &of), Some(1.0), "{of}");
    }
}

#[test]
fn what_is_under_way_is_given_back_when_it_is_dropped() {
    let metrics = Metrics::new();
    let backend = metrics.backend("gpu", "a");
    let lease = InFlight::new(&backend.in_flight);
    assert_eq!(backend.in_flight.get(), 1);
    drop(lease);
    assert_eq!(metrics.backend("gpu", "a").in_flight.get(), 0);
}

#[test]
fn the_configuration_in_use_has_one_hash() {
    let metrics = Metrics::new();
    metrics.config_loaded("aaaa");
    metrics.config_loaded("bbbb");
    metrics.config_refused();
    let text = metrics.render();
    assert_eq!(value(&text, r#"tidegate_config_info{hash="bbbb"}"#), Some(1.0));
    assert!(!text.contains("aaaa"));
    assert_eq!(value(&text, "tidegate_config_last_reload_successful"), Some(0.0));
    assert!(value(&text, "tidegate_config_last_reload_timestamp_seconds") > Some(1.7e9));
}

#[test]
fn every_metric_of_the_list_is_there_with_its_help() {
    let metrics = Metrics::new();
    metrics.config_loaded("aaaa");
    metrics.backend("gpu", "a");
    metrics.queue("gpu");
    metrics.shadow("next", "gpu");
    metrics.bad_request(BadHead::Framing);
    metrics.filter("limits");
    metrics.certificate_loads("127.0.0.1:8443");
    metrics.certificate_expires("127.0.0.1:8443", 2_000_000_000);
    metrics.observe(&metrics.series("llama", "gpu"), &Record { resumes: vec![ResumeOutcome::Won], ..record() });
    // What filters share counts once there is somebody who does something.
    let shared = crate::assemble::first_shared(&metrics);
    let services = Services { shared: shared.clone(), ..Services::none() };
    let jwt = json!({ "issuer": "i", "audience": ["a"], "algorithms": ["EdDSA"], "jwks": { "url": "https://i" } });
    let folder = std::env::temp_dir().join(format!("tidegate-metrics-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let record = json!({ "to": { "files": { "path": &folder } } });
    let limits = json!([{ "per": "global", "requests": "1/s" }]);
    let built = [("jwt", jwt), ("limits", limits), ("record", record)]
        .map(|(name, settings)| Registry::built_in().filter(name, settings, &services));
    assert!(built.iter().all(|filter| matches!(filter, Some(Ok(_)))));
    let classifier = json!({ "task": { "model": "m", "labels": ["a", "b"], "otherwise": "a" } });
    assert!(Classifiers::read(classifier, &["m".into()], &shared).1.is_empty());
    shared.caches.counts().begin("other");
    shared.limited.counter().with_label_values(&["l", "user", "m", "refused"]).inc();
    metrics.also(Box::new(KeyMetrics::new(Arc::default()).unwrap())).unwrap();
    let usage = crate::usage::metrics::UsageMetrics::new().collectors();
    for collector in crate::storage::StorageMetrics::new("main").collectors().into_iter().chain(usage) {
        metrics.also(collector).unwrap();
    }
    let text = metrics.render();
    drop(std::fs::remove_dir_all(&folder));
    let help: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
    for spec in list::ALL {
        assert!(help.contains(&&*format!("{} {}", spec.name, spec.help)), "{}", spec.name);
    }
    let process = help.iter().filter(|line| line.starts_with("process_")).count();
    assert_eq!(help.len(), list::ALL.len() + process);
    assert!(process > 0);
}
