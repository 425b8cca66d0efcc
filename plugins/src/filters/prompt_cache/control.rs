//! What requests say about caching (`Cache-Control`), and what answers are told to say (`Cache-Status`, `Age`; RFC 9211).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::time::Duration;

/// The header that says what the cache had to do with an answer.
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What a client asks of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Neither look it up nor keep it.
    pub no_store: bool,
    /// A new answer, which may be kept.
    pub no_cache: bool,
    /// None older than this.
    pub max_age: Option<Duration>,
    /// A kept one or none.
    pub only_if_cached: bool,
    /// For so long after its time an answer will do in the place of a failure.
    pub stale_if_error: Option<Duration>,
    /// For so long after its time an answer will do.
    pub max_stale: Option<Duration>,
}

impl Control {
    /// What these headers say. What they say otherwise is for others.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            for directive in value.to_str().unwrap_or_default().split(',') {
                let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
                match name.trim().to_ascii_lowercase().as_str() {
                    "no-store" => control.no_store = true,
                    "no-cache" => control.no_cache = true,
                    "only-if-cached" => control.only_if_cached = true,
                    "max-age" => control.max_age = Some(seconds(value)),
                    "stale-if-error" => control.stale_if_error = Some(seconds(value)),
                    // Without a time: however old.
                    "max-stale" if value.trim().is_empty() => control.max_stale = Some(Duration::MAX),
                    "max-stale" => control.max_stale = Some(seconds(value)),
                    _ => {}
                }
            }
        }
        control
    }

    /// Whether an answer of this age will do.
    pub(super) fn takes(&self, age: Duration) -> bool {
        !self.no_cache && self.max_age.is_none_or(|most| age <= most)
    }

    /// Whether an answer of this age, whose time has been over for so long, will do in the place of a failure: as any other
    /// kept one, unless the request says what it takes of those.
    pub(super) fn takes_instead(&self, age: Duration, over: Duration) -> bool {
        match self.stale_if_error.or(self.max_stale) {
            Some(most) => over <= most,
            None => self.takes(age),
        }
    }
}

/// A time in seconds. What cannot be read means the strictest that it could, what is beyond counting means for ever.
fn seconds(value: &str) -> Duration {
    let digits = value.trim().trim_matches('"');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Duration::from_secs(digits.parse().unwrap_or(if is_number { u64::MAX } else { 0 }))
}

/// What the cache had to do with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    /// It is a kept one, with so many seconds to go; less than none if its time is over.
    Hit { ttl: i64, detail: Option<&'static str> },
    /// It had to be fetched.
    Fetched { why: &'static str, stored: bool, detail: Option<String> },
    /// It was to be fetched, and a kept one stands in for the failure: the backend's status, if it had one to say.
    Instead { ttl: i64, why: &'static str, status: Option<StatusCode> },
    /// There is none, and none is to be fetched.
    Absent,
    /// The cache has nothing to do with it.
    Bypass { why: &'static str },
}

impl Status {
    /// Writes it to the head of an answer.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let text = match self {
            Self::Hit { ttl, detail: None } => format!("tidegate; hit; ttl={ttl}"),
            Self::Hit { ttl, detail: Some(detail) } => format!("tidegate; hit; ttl={ttl}; detail={detail}"),
            Self::Fetched { why, stored, detail } => {
                let mut text = ["tidegate; fwd=", why, if *stored { "; stored" } else { "" }].concat();
                if let Some(detail) = detail {
                    text += &format!("; detail=\"{detail}\"");
                }
                text
            }
            Self::Instead { ttl, why, status } => {
                let status = status.map_or(String::new(), |status| format!("; fwd-status={}", status.as_u16()));
                format!("tidegate; fwd={why}{status}; ttl={ttl}; detail=stale-if-error")
            }
            Self::Absent => "tidegate; detail=only-if-cached".to_owned(),
            Self::Bypass { why } => format!("tidegate; fwd=bypass; detail={why}"),
        };
        if let Ok(value) = HeaderValue::try_from(text) {
            // A cache behind us has said its own: each on the way adds to the list.
            headers.append(CACHE_STATUS, value);
        }
    }
}

/// Whether a backend wants its answer not to be kept.
pub(super) fn forbids(headers: &HeaderMap) -> bool {
    Control::of(headers).no_store
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(text: &'static str) -> Control {
        Control::of(&HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(text))]))
    }

    #[test]
    fn directives_are_read_in_any_case_and_company() {
        assert!(control("No-Store").no_store);
        assert!(control("max-age=5, no-cache, x=y").no_cache);
        assert_eq!(control("max-age=\"7\"").max_age, Some(Duration::from_secs(7)));
        assert_eq!(control("max-age=soon").max_age, Some(Duration::ZERO));
        assert_eq!(control("max-age=-1").max_age, Some(Duration::ZERO));
        assert_eq!(control("max-age=99999999999999999999").max_age, Some(Duration::from_secs(u64::MAX)));
        assert!(control("only-if-cached").only_if_cached);
        assert_eq!(control("private, must-revalidate"), Control::default());
    }

    #[test]
    fn an_age_is_taken_or_not() {
        let second = Duration::from_secs(1);
        assert!(control("max-age=1").takes(second) && !control("max-age=0").takes(second));
        assert!(Control::default().takes(second * 99) && !control("no-cache").takes(Duration::ZERO));
    }

    #[test]
    fn what_a_request_takes_in_the_place_of_a_failure_is_what_it_takes_unless_it_says_so() {
        let (age, over) = (Duration::from_secs(90), Duration::from_secs(30));
        for (text, takes) in [
            ("private", true),
            ("max-age=90", true),
            ("max-age=89", false),
            ("no-cache", false),
            ("no-cache, stale-if-error=30", true),
            ("max-age=0, stale-if-error=29", false),
            ("max-age=0, max-stale=60", true),
            ("max-age=0, max-stale", true),
            ("stale-if-error=0", false),
        ] {
            assert_eq!(control(text).takes_instead(age, over), takes, "{text}");
        }
    }

    #[test]
    fn the_status_is_told_as_the_standard_has_it() {
        let told = |status: Status| {
            let mut headers = HeaderMap::new();
            status.write(&mut headers);
            headers[CACHE_STATUS].to_str().expect("text").to_owned()
        };
        assert_eq!(told(Status::Hit { ttl: 37, detail: None }), "tidegate; hit; ttl=37");
        assert_eq!(told(Status::Fetched { why: "miss", stored: true, detail: None }), "tidegate; fwd=miss; stored");
        assert_eq!(told(Status::Bypass { why: "no-store" }), "tidegate; fwd=bypass; detail=no-store");
        assert_eq!(
            told(Status::Hit { ttl: -5, detail: Some("stale-while-revalidate") }),
            "tidegate; hit; ttl=-5; detail=stale-while-revalidate"
        );
        assert_eq!(
            told(Status::Instead { ttl: -5, why: "stale", status: Some(StatusCode::BAD_GATEWAY) }),
            "tidegate; fwd=stale; fwd-status=502; ttl=-5; detail=stale-if-error"
        );
    }
}
