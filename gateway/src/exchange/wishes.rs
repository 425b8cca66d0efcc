//! What a request asks of the gateway itself, in headers named `x-tidegate-*`: read once, when it arrives. A wish that
//! cannot be read is refused and not passed over: whoever writes `x-tidegate-fallback: of` believes that the prompt stays
//! in the house. Headers of that kind that mean nothing here may mean something to a gateway behind this one.

use super::fail::{Fault, Result};
use super::headers::SHADOW;
use http::HeaderMap;
use std::time::Duration;
use tidegate_plugins::Priority;
use tidegate_plugins::duration::Span;

/// What a request asks for; what it does not name is as the file has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// `x-tidegate-priority`: to be no more urgent than this.
    pub priority: Option<Priority>,
    /// `x-tidegate-max-wait`: to wait in a queue no longer than this.
    pub max_wait: Option<Duration>,
    /// `x-tidegate-fallback: off`: its own pool, or nobody.
    pub no_fallback: bool,
    /// `x-tidegate-hedge: off`: one backend at a time.
    pub no_hedge: bool,
    /// `x-tidegate-resume: off`: no stream that several backends have told.
    pub no_resume: bool,
    /// The first that cannot be read.
    unread: Option<&'static Wish>,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    name: &'static str,
    expected: &'static str,
}

const PRIORITY: Wish = Wish { name: "x-tidegate-priority", expected: "interactive, normal, batch, or 0 to 9" };
const MAX_WAIT: Wish =
    Wish { name: "x-tidegate-max-wait", expected: "seconds such as 2.5, from 0 to 86400, or a time such as 500ms" };
const FALLBACK: Wish = Wish { name: "x-tidegate-fallback", expected: "on or off" };
const HEDGE: Wish = Wish { name: "x-tidegate-hedge", expected: "on or off" };
const RESUME: Wish = Wish { name: "x-tidegate-resume", expected: "on or off" };

impl Wishes {
    /// Those of a request with these headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut wishes = Self::default();
        let names = headers.keys().filter(|name| name.as_str().starts_with("x-tidegate-") && **name != SHADOW);
        for name in names {
            let mut values = headers.get_all(name).iter();
            // Of two one would have to guess which is meant.
            let value = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
            wishes.read(name.as_str(), value.unwrap_or_default().trim());
        }
        wishes
    }

    fn read(&mut self, name: &str, value: &str) {
        let (wish, read) = match name {
            "x-tidegate-priority" => (&PRIORITY, priority(value).map(|priority| self.priority = Some(priority))),
            "x-tidegate-max-wait" => (&MAX_WAIT, time(value).map(|time| self.max_wait = Some(time))),
            "x-tidegate-fallback" => (&FALLBACK, off(value).map(|off| self.no_fallback = off)),
            "x-tidegate-hedge" => (&HEDGE, off(value).map(|off| self.no_hedge = off)),
            "x-tidegate-resume" => (&RESUME, off(value).map(|off| self.no_resume = off)),
            _ => return,
        };
        if read.is_none() {
            self.unread.get_or_insert(wish);
        }
    }

    /// # Errors
    /// 400: one of them cannot be read.
    pub(super) fn check(&self) -> Result<()> {
        let Some(Wish { name, expected }) = self.unread else { return Ok(()) };
        Err(Fault::bad("invalid_header", format!("The header {name} is to be given once, as {expected}.")))
    }
}

fn priority(value: &str) -> Option<Priority> {
    match value {
        "interactive" => Priority::new(8),
        "normal" => Some(Priority::default()),
        "batch" => Priority::new(1),
        number => number.parse().ok().and_then(Priority::new),
    }
}

fn time(value: &str) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(86_400);
    let seconds = || value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds().or_else(|| Span::parse(value).ok().map(|span| span.0)).filter(|time| *time <= LONGEST)
}

fn off(value: &str) -> Option<bool> {
    match value {
        "on" => Some(false),
        "off" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{HeaderName, HeaderValue};

    fn wishes(headers: &[(&'static str, &'static str)]) -> Wishes {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Wishes::of(&map)
    }

    #[test]
    fn each_is_read_as_it_is_written() {
        let all = wishes(&[
            ("x-tidegate-priority", "batch"),
            ("x-tidegate-max-wait", " 0.25 "),
            ("x-tidegate-fallback", "off"),
            ("x-tidegate-hedge", "off"),
            ("x-tidegate-resume", "off"),
            ("x-tidegate-tomorrow", "?"),
        ]);
        assert_eq!((all.priority, all.max_wait), (Priority::new(1), Some(Duration::from_millis(250))));
        assert!(all.no_fallback && all.no_hedge && all.no_resume && all.check().is_ok());
        assert_eq!(wishes(&[("x-tidegate-hedge", "on"), ("x-other", "off")]), Wishes::default());
        for (written, millis) in [("0", 0), ("2", 2000), ("500ms", 500), ("1m", 60_000)] {
            let wait = wishes(&[("x-tidegate-max-wait", written)]).max_wait;
            assert_eq!(wait, Some(Duration::from_millis(millis)), "{written}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_wish_and_is_told() {
        for (name, value) in [
            ("x-tidegate-priority", "urgent"),
            ("x-tidegate-priority", "10"),
            ("x-tidegate-priority", "-1"),
            ("x-tidegate-priority", ""),
            ("x-tidegate-max-wait", "abc"),
            ("x-tidegate-max-wait", "-1"),
            ("x-tidegate-max-wait", "NaN"),
            ("x-tidegate-max-wait", "inf"),
            ("x-tidegate-max-wait", "86401"),
            ("x-tidegate-fallback", "of"),
            ("x-tidegate-hedge", "false"),
            ("x-tidegate-resume", "OFF!"),
        ] {
            let fault = wishes(&[(name, value)]).check().expect_err(value);
            let Fault::Told { refusal, .. } = fault else { panic!("{name}: {value}") };
            assert!(refusal.status == 400 && refusal.message.contains(name), "{}", refusal.message);
        }
        assert!(wishes(&[("x-tidegate-hedge", "off"), ("x-tidegate-hedge", "off")]).check().is_err());
    }
}
