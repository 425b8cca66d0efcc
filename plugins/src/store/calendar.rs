//! Days, weeks and months as people count them: from midnight to midnight in their own time zone.
//!
//! Budgets go by the clock on the wall, which may be set. A window is known by a [`Window::number`], the half days from
//! 1970 to its beginning: no two windows of one period share one, and a bucket that has seen a later window than the
//! clock shows stays in it, so that setting the clock back gives nobody a second budget.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Minutes in half a day.
const HALF_DAY: u64 = 720;

/// How long a budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From Monday to Sunday.
    Week,
    /// From the first of a month to its last day.
    Month,
}

impl Period {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// The most half days from the beginning of one window to that of the next: an hour of summer time may be between.
    pub(super) fn half_days(self) -> u32 {
        match self {
            Self::Day => 3,
            Self::Week => 15,
            Self::Month => 63,
        }
    }

    /// The longest a window can be.
    pub(super) fn longest(self) -> Duration {
        let days = match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 31,
        };
        Duration::from_secs(days * 86_400 + 3600)
    }
}

/// The windows of one period in one time zone.
#[derive(Debug)]
pub struct Calendar {
    period: Period,
    zone: TimeZone,
    /// The window of the last question: its beginning and its end in minutes since 1970.
    last: AtomicU64,
}

/// A window as seen from within.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Half days from 1970 to its beginning.
    pub(super) number: u32,
    /// How long until the next one begins.
    pub(super) ends_in: Duration,
}

impl Calendar {
    /// The windows of `period` in `zone`, a name of the IANA database such as `Europe/Berlin`.
    ///
    /// # Errors
    /// If there is no such zone.
    pub fn new(period: Period, zone: &str) -> Result<Self, String> {
        // From the database in the program, so that it means the same on every machine.
        let zone = TimeZone::get(zone).map_err(|_| format!("there is no time zone `{zone}`"))?;
        Ok(Self { period, zone, last: AtomicU64::new(0) })
    }

    /// How long its windows are.
    pub fn period(&self) -> Period {
        self.period
    }

    /// The window that `wall`, in milliseconds since 1970, lies in. Looks at the calendar only when a window is over.
    pub(super) fn window(&self, wall: u64) -> Window {
        let minute = wall / 60_000;
        let mut last = self.last.load(Relaxed);
        if !(last >> 32..last & 0xffff_ffff).contains(&minute) {
            last = self.look(wall / 1000);
            self.last.store(last, Relaxed);
        }
        let (start, end) = (last >> 32, last & 0xffff_ffff);
        let number = u32::try_from(start / HALF_DAY).unwrap_or(u32::MAX);
        Window { number, ends_in: Duration::from_millis((end * 60_000).saturating_sub(wall)) }
    }

    fn look(&self, wall: u64) -> u64 {
        let now = Timestamp::from_second(i64::try_from(wall).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
        let today = now.to_zoned(self.zone.clone()).date();
        let (first, next) = match self.period {
            Period::Day => (today, today.tomorrow()),
            Period::Week => {
                let monday = today.checked_sub(i32::from(today.weekday().to_monday_zero_offset()).days());
                let monday = monday.unwrap_or(today);
                (monday, monday.checked_add(7.days()))
            }
            Period::Month => (today.first_of_month(), today.last_of_month().tomorrow()),
        };
        let minute = |date: Date| {
            let midnight = date.to_zoned(self.zone.clone()).map_or(0, |midnight| midnight.timestamp().as_second());
            (u64::try_from(midnight).unwrap_or(0) / 60) & 0xffff_ffff
        };
        minute(first) << 32 | minute(next.unwrap_or(Date::MAX))
    }
}

/// The number of the half day that `wall` lies in: windows that began so much before it are over.
pub fn half_day(wall: u64) -> u32 {
    u32::try_from(wall / 60 / HALF_DAY).unwrap_or(u32::MAX)
}

/// Half days after which any window is over.
pub const OVER: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_second().try_into().unwrap()
    }

    #[test]
    fn windows_begin_at_midnight_where_people_live() {
        for (period, zone, now, next) in [
            (Period::Day, "UTC", "2026-03-05T10:00:00Z", "2026-03-06T00:00:00Z"),
            (Period::Day, "Europe/Berlin", "2026-03-05T23:30:00Z", "2026-03-06T23:00:00Z"),
            // An hour less, and an hour more.
            (Period::Day, "Europe/Berlin", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Period::Day, "Europe/Berlin", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            (Period::Week, "UTC", "2026-03-05T10:00:00Z", "2026-03-09T00:00:00Z"),
            (Period::Week, "UTC", "2026-03-09T00:00:00Z", "2026-03-16T00:00:00Z"),
            (Period::Month, "America/New_York", "2026-02-28T12:00:00Z", "2026-03-01T05:00:00Z"),
            (Period::Month, "Pacific/Auckland", "2026-12-31T12:00:00Z", "2027-01-31T11:00:00Z"),
        ] {
            let calendar = Calendar::new(period, zone).unwrap();
            assert_eq!(
                calendar.window(at(now) * 1000).ends_in,
                Duration::from_secs(at(next) - at(now)),
                "{zone} {now}"
            );
        }
        assert!(Calendar::new(Period::Day, "Europe/Atlantis").is_err());
    }

    #[test]
    fn no_two_windows_share_a_number_and_none_is_further_than_told() {
        for zone in ["UTC", "Europe/Berlin", "Pacific/Auckland", "Pacific/Kiritimati", "America/St_Johns", "Asia/Gaza"]
        {
            for period in [Period::Day, Period::Week, Period::Month] {
                let calendar = Calendar::new(period, zone).unwrap();
                let mut now = at("2025-12-31T12:34:00Z");
                let mut last = calendar.window(now * 1000);
                while now < at("2030-01-01T00:00:00Z") {
                    assert!(last.ends_in <= period.longest() && !last.ends_in.is_zero());
                    now += last.ends_in.as_secs();
                    assert_eq!(calendar.window(now * 1000 - 1).number, last.number);
                    let next = calendar.window(now * 1000);
                    let apart = next.number - last.number;
                    assert!((1..=period.half_days()).contains(&apart), "{zone} {period:?} {apart}");
                    last = next;
                }
            }
        }
    }

    #[test]
    fn a_window_that_began_long_ago_is_over() {
        let calendar = Calendar::new(Period::Month, "Pacific/Auckland").unwrap();
        let now = at("2026-10-31T10:59:59Z");
        assert!(calendar.window(now * 1000).number + OVER > half_day(now));
    }
}
