use super::*;

const MODEL: u64 = 7;

fn settings() -> Settings {
    Settings { consecutive: 3, ratio: 0.5, requests: 10, pause: Duration::from_secs(5), ..Settings::default() }
}

/// A breaker, and a clock that is moved by hand.
struct Bench(Breaker, Instant);

impl Bench {
    fn new() -> Self {
        Self(Breaker::default(), Instant::now())
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.1 += Duration::from_secs(seconds);
        self
    }

    fn enter(&mut self) -> Option<bool> {
        self.0.enter(self.1)
    }

    fn state(&self) -> State {
        self.0.state(self.1)
    }

    fn judge(&mut self, verdict: Verdict) -> Option<Change> {
        self.0.judge(verdict, false, &settings(), self.1)
    }

    fn probe(&mut self, verdict: Verdict) -> Option<Change> {
        assert_eq!(self.0.enter(self.1), Some(true));
        self.0.judge(verdict, true, &settings(), self.1)
    }
}

#[test]
fn it_takes_faults_in_a_row() {
    let mut bench = Bench::new();
    for verdict in [Verdict::Fault, Verdict::Fault, Verdict::Good, Verdict::Fault, Verdict::Fault] {
        assert_eq!(bench.judge(verdict), None);
    }
    assert_eq!(bench.judge(Verdict::Fault), Some(Change::Opened(Opened::Consecutive)));
    assert!(!bench.0.admits(bench.1));
}

#[test]
fn what_is_nobodys_outage_does_not_count() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        assert_eq!(bench.judge(Verdict::Full), None);
        assert_eq!(bench.judge(Verdict::Nothing), None);
    }
    assert_eq!((bench.judge(Verdict::Fault), bench.judge(Verdict::Fault)), (None, None));
    bench.judge(Verdict::Full);
    assert!(bench.judge(Verdict::Fault).is_some(), "being full between faults is no success");
}

#[test]
fn a_large_part_of_the_last_requests_opens_it_too() {
    let mut bench = Bench::new();
    let opened = (0..5).find_map(|_| {
        bench.after(1).judge(Verdict::Good);
        bench.judge(Verdict::Fault)
    });
    assert_eq!(opened, Some(Change::Opened(Opened::Ratio)));
}

#[test]
fn faults_of_long_ago_are_forgotten() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.after(40).judge(Verdict::Good);
        assert_eq!(bench.judge(Verdict::Fault), None);
    }
}

#[test]
fn silence_once_is_enough() {
    assert_eq!(Bench::new().judge(Verdict::Silent), Some(Change::Opened(Opened::Silent)));
}

#[test]
fn one_request_shows_whether_it_is_well_again() {
    let mut bench = Bench::new();
    bench.judge(Verdict::Silent);
    assert_eq!(bench.after(4).enter(), None);
    assert_eq!(bench.after(1).enter(), Some(true));
    assert_eq!(bench.enter(), None, "one is enough");
    assert_eq!(bench.0.judge(Verdict::Nothing, true, &settings(), bench.1), None);
    assert_eq!(bench.enter(), Some(true), "the one that said nothing makes room for the next");
    assert_eq!(bench.0.judge(Verdict::Good, true, &settings(), bench.1), Some(Change::Closed));
    assert_eq!(bench.enter(), Some(false));
}

#[test]
fn pauses_grow_as_long_as_it_does_not_come_back_and_no_further_than_that() {
    let mut bench = Bench::new();
    bench.judge(Verdict::Silent);
    for pause in [5, 10, 20, 40, 50, 50] {
        assert_eq!(bench.after(pause - 1).enter(), None);
        assert_eq!(bench.after(1).probe(Verdict::Fault), Some(Change::Opened(Opened::Probe)));
    }
    bench.after(50).probe(Verdict::Good);
    assert_eq!(bench.state(), State::Closed);
    bench.judge(Verdict::Silent);
    assert_eq!(bench.after(5).state(), State::HalfOpen);
}

#[test]
fn what_went_out_before_it_opened_changes_nothing_but_an_answer_does() {
    let mut bench = Bench::new();
    bench.judge(Verdict::Silent);
    assert_eq!(bench.judge(Verdict::Fault), None);
    assert_eq!(bench.judge(Verdict::Good), Some(Change::Closed), "it lives");
}

#[test]
fn models_are_judged_apart_and_none_without_a_fault() {
    let breakers = Breakers::default();
    breakers.judge(MODEL, Verdict::Good, false, &settings());
    assert!(breakers.find(MODEL).is_none());
    for _ in 0..3 {
        breakers.judge(MODEL, Verdict::Fault, false, &settings());
    }
    assert_eq!((breakers.open(), breakers.worst()), (vec![MODEL], (State::Open, 1)));
    assert!(breakers.find(8).is_none());
    for model in 100..100 + 2 * MOST_MODELS as u64 {
        breakers.judge(model, Verdict::Fault, false, &settings());
    }
    assert!(breakers.lock().len() <= MOST_MODELS + 1);
    assert!(breakers.find(9999).is_some(), "those beyond share one");
}
