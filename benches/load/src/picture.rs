//! A histogram to look at in a terminal: a bar for each range of times, and the percentiles where they lie.

use hdrhistogram::Histogram;
use serde::Serialize;

/// A line of the picture.
#[derive(Debug, PartialEq, Serialize)]
pub struct Bar {
    /// Times from this one on, in nanoseconds.
    #[serde(rename = "from_ns")]
    pub from: u64,
    /// And below this one; none for all the others.
    #[serde(rename = "to_ns")]
    pub to: Option<u64>,
    /// Answers that took so long.
    pub count: u64,
    /// Percentiles that lie there.
    pub percentiles: Vec<&'static str>,
}

/// At most so many bars.
const MOST: usize = 16;

/// Bounds within a power of ten, from fine to coarse: round numbers, each about as far from the last as from the next.
const SERIES: [&[u64]; 6] = [
    &[
        100, 110, 120, 130, 150, 160, 180, 200, 220, 240, 270, 300, 330, 360, 390, 430, 470, 510, 560, 620, 680, 750,
        820, 910,
    ],
    &[100, 120, 150, 180, 220, 270, 330, 390, 470, 560, 680, 820],
    &[100, 150, 200, 300, 500, 700],
    &[100, 200, 500],
    &[100, 300],
    &[100],
];

/// Percentiles that are marked.
const MARKED: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// What is shorter is no time at all: events that came together.
const TOGETHER: u64 = 999;

/// The bars of `histogram`; none if it is empty. The few that are very fast or very slow share a bar with their
/// neighbours, so that they leave the others room; what took no time has a bar of its own.
pub fn bars(histogram: &Histogram<u64>) -> Vec<Bar> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let together = histogram.count_between(0, TOGETHER);
    let mut bounds = if together > 0 { vec![0] } else { Vec::new() };
    if together < histogram.len() {
        let share = together as f64 / histogram.len() as f64;
        let low = histogram.value_at_quantile(share + (1.0 - share) * 0.01).max(TOGETHER + 1);
        bounds.extend(round(low, histogram.value_at_quantile(0.999).max(low)));
    }
    let mut bars: Vec<_> = (0..bounds.len())
        .map(|at| Bar { from: bounds[at], to: bounds.get(at + 1).copied(), count: 0, percentiles: Vec::new() })
        .collect();
    let place = |value: u64| match value <= TOGETHER {
        true => 0,
        false => bounds.partition_point(|bound| *bound <= value).saturating_sub(1).max(usize::from(together > 0)),
    };
    for recorded in histogram.iter_recorded() {
        bars[place(recorded.value_iterated_to())].count += recorded.count_at_value();
    }
    for (quantile, name) in MARKED {
        bars[place(histogram.value_at_quantile(quantile))].percentiles.push(name);
    }
    bars
}

/// Round bounds for all between these two: the finest of which there are not too many.
fn round(low: u64, high: u64) -> Vec<u64> {
    let mut all = SERIES.iter().map(|series| bounds(series, low, high));
    all.clone().find(|bounds| bounds.len() <= MOST).or(all.next_back()).unwrap_or_default()
}

/// The bounds from the last one that is not above `low` to the last one that is not above `high`.
fn bounds(series: &[u64], low: u64, high: u64) -> Vec<u64> {
    // The series are in hundredths: below a power of ten of a hundred there is none.
    let all = (0..=16).flat_map(|power| series.iter().map(move |bound| bound * 10_u64.pow(power) / 100));
    let mut bounds: Vec<u64> = all.filter(|bound| *bound <= high).collect();
    bounds.dedup();
    let first = bounds.partition_point(|bound| *bound <= low).saturating_sub(1);
    bounds.split_off(first)
}

/// A bar `share` of `width` wide, to an eighth of a column. What is there is seen, however little it is.
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share * width as f64 * 8.0).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A time in the unit that suits it, with three digits that count.
pub fn time(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        0..1_000_000 => (nanoseconds as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanoseconds as f64 / 1e6, "ms"),
        _ => (nanoseconds as f64 / 1e9, "s"),
    };
    let places = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.places$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        histogram.auto(true);
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn each_value_is_in_one_bar_and_each_percentile_marked_once() {
        for values in
            [vec![1], vec![0, 5], (1..10_000).map(|x| x * 1000).collect(), (0..9).map(|x| 10_u64.pow(x + 3)).collect()]
        {
            let histogram = of(values);
            let bars = bars(&histogram);
            assert!((1..=MOST + 1).contains(&bars.len()), "{}", bars.len());
            assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), histogram.len());
            assert_eq!(bars.iter().map(|bar| bar.percentiles.len()).sum::<usize>(), 4);
            assert!(bars.windows(2).all(|pair| pair[0].to == Some(pair[1].from)));
            assert!(bars[bars.len() - 1].to.is_none());
        }
        assert!(bars(&of([])).is_empty());
    }

    #[test]
    fn what_came_together_has_a_bar_of_its_own_and_takes_no_room_from_the_others() {
        let bars = bars(&of((0..100).map(|_| 0).chain((0..900).map(|step| 20_000_000 + step * 1000))));
        assert_eq!((bars[0].from, bars[0].count), (0, 100));
        assert!(bars[1].from >= 19_000_000 && bars[1].count > 0, "{bars:?}");
    }

    #[test]
    fn a_narrow_distribution_is_spread_over_several_bars() {
        let bars = bars(&of((0..1000).map(|step| 1_000_000 + step * 1000)));
        assert!(bars.len() >= 6, "{bars:?}");
        assert!(bars[2].percentiles.is_empty() && bars.iter().any(|bar| bar.percentiles == ["p50"]));
    }

    #[test]
    fn bars_are_as_wide_as_their_share() {
        assert_eq!([bar(1.0, 4), bar(0.5, 3), bar(0.001, 10), bar(0.0, 10)], ["████", "█▌", "▏", ""]);
    }

    #[test]
    fn times_are_told_in_their_own_unit() {
        let told = [900, 12_340, 999_000, 1_500_000, 250_000_000, 12_000_000_000].map(time);
        assert_eq!(told, ["0.90 us", "12.3 us", "999 us", "1.50 ms", "250 ms", "12.0 s"]);
    }
}
