//! `tidegate bench`: how fast whatever answers at a URL is, measured as the benches of this project measure.

mod ask;
mod key;
mod page;
mod progress;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tidegate_bench_load::picture::bars;
use tidegate_bench_load::{End, Measured, Plan, Report, Trust, Way, measure, open_files};
use tidegate_config::{parse_duration, parse_size};

use super::Failure;
use super::say::{Paint, say};
use ask::{Endpoint, Place};
use progress::Bar;

/// Some requests failed, and the others were measured.
const SOME_FAILED: u8 = 3;

/// Ended by Ctrl-C, as shells tell it.
const INTERRUPTED: u8 = 130;

/// Measure what answers at a URL: latency, first tokens, the time between tokens, and what it can carry.
///
/// It asks any server with OpenAI's API, of which this gateway is one. Without --rate each connection asks again as soon as it is
/// answered (closed loop): that tells how much the server carries. With --rate requests are due at fixed times (open loop), and
/// wait from then on, whether a connection is free or not: that tells how long clients wait at such a load.
#[derive(Args)]
#[command(
    after_help = "One request comes first, unmeasured: what is wrong with the key or the model is told at once.\n\
    Ctrl-C ends it early, and what was measured is told. Exit codes: 0 all was answered; 1 nothing could be measured;\n\
    2 wrong arguments; 3 some requests failed; 130 ended by Ctrl-C."
)]
pub(super) struct Bench {
    /// The server, as apps have it: http://HOST:PORT/v1 or https://HOST/v1
    #[arg(long, value_name = "URL")]
    to: String,
    /// What is asked of it [default: chat, or what the URL ends with]
    #[arg(long, value_enum)]
    endpoint: Option<Endpoint>,
    /// The model [default: the one that the server lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Connections, each with one request at a time
    #[arg(long, short = 'c', value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// So many streams at once, in place of whole answers
    #[arg(long, short = 's', value_name = "N", conflicts_with = "connections", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: Option<u32>,
    /// Requests a second, whatever becomes of them: an open loop
    #[arg(long, short = 'r', value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// How long it is measured
    #[arg(long, short = 'd', value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long before that it is not, so that all is warm
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// End after so many requests in place of a time, without a warm-up
    #[arg(long, short = 'n', value_name = "N", conflicts_with_all = ["duration", "warmup"], value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Open the connections over so long a time
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_duration)]
    ramp: Duration,
    /// How long an answer may take
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    said: Said,
    /// The variable that holds the key, sent as `authorization: Bearer`
    #[arg(long, value_name = "NAME", default_value = key::VARIABLE, conflicts_with = "key_file")]
    key_env: String,
    /// The file that holds the key; - is standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A header to send with each request; may be given more than once
    #[arg(long, value_name = "NAME: VALUE", value_parser = ask::header)]
    header: Vec<String>,
    /// Take any certificate
    #[arg(long)]
    insecure: bool,
    /// The file with the authorities (PEM) that vouch for the server, in place of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// A process of the server, on this machine, whose processor time, memory and system calls are told; may be given more
    /// than once
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// JSON in place of a page for people
    #[arg(long)]
    json: bool,
}

/// What requests say.
#[derive(Args)]
struct Said {
    /// The prompt, in place of one made up
    #[arg(long, value_name = "TEXT", conflicts_with = "body")]
    prompt: Option<String>,
    /// The length of the prompt that is made up
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = parse_size, conflicts_with_all = ["prompt", "body"])]
    prompt_size: u64,
    /// The most tokens that an answer may have; 0 leaves it to the server
    #[arg(long, value_name = "N", default_value_t = 128, conflicts_with = "body")]
    max_tokens: u32,
    /// A number before each prompt, so that no cache has its answer
    #[arg(long, conflicts_with = "body")]
    distinct: bool,
    /// A file with the whole body of each request
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    body: Option<PathBuf>,
}

/// What was asked for, as the result has it.
#[derive(Serialize)]
struct Asked {
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    stream: bool,
    connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
}

/// All that `--json` tells.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    asked: &'a Asked,
    #[serde(flatten)]
    report: &'a Report,
    /// The bars of the page, of whatever was timed.
    histograms: Vec<page::Picture>,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let place = Place::read(&self.to, self.endpoint).map_err(Failure::bad_input)?;
        if self.streams.is_some() && place.endpoint == Endpoint::Embeddings {
            return Err(Failure::bad_input("there are no streams of embeddings: leave --streams out"));
        }
        open_files().map_err(|error| Failure::could_not(format!("cannot have more open files: {error}")))?;
        let way = Way::to(&place.target, self.trust());
        let way = way.map_err(|error| Failure::could_not(format!("{}: {error}", self.to)))?;
        let (plan, asked) = self.plan(&place, way)?;
        ask::try_once(&plan, &asked.to)?;
        let bar = Bar::begin();
        let stop = async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending().await
            }
        };
        let measured = measure(plan, stop, move |progress| bar.show(&progress));
        progress::end();
        let measured = measured.map_err(|error| Failure::could_not(format!("cannot measure: {error}")))?;
        tell(&measured, &asked, self.json);
        judge(&measured)
    }

    fn trust(&self) -> Trust<'_> {
        match &self.ca {
            _ if self.insecure => Trust::Anybody,
            Some(file) => Trust::File(file),
            None => Trust::System,
        }
    }

    fn plan(&self, place: &Place, way: Way) -> Result<(Plan, Asked), Failure> {
        let stream = self.streams.is_some();
        let headers = ask::Headers::new(place, key::read(&self.key_env, self.key_file.as_deref())?, &self.header);
        let model = match (&self.model, &self.said.body) {
            (Some(model), _) => Some(model.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(ask::only_model(place, &way, &headers, self.timeout)?),
        };
        let workers = self.streams.unwrap_or(self.connections) as usize;
        let asked = Asked { to: place.url(), model, stream, connections: workers, rate: self.rate };
        let plan = Plan {
            request: self.said.request(place, &headers, asked.model.as_deref(), stream)?,
            way,
            stream,
            workers,
            rate: self.rate,
            end: match self.requests {
                Some(requests) => End::Requests(requests),
                None => End::After { warmup: self.warmup, duration: self.duration },
            },
            ramp: self.ramp,
            timeout: Some(self.timeout),
            usage: true,
            pids: self.pid.clone(),
        };
        Ok((plan, asked))
    }
}

fn tell(measured: &Measured, asked: &Asked, json: bool) {
    let report = Report::new(measured, asked.stream);
    let pictures = page::pictures(measured, asked.stream);
    if json {
        let told = Told { asked, report: &report, histograms: pictures };
        // What has only names and numbers in it can be written.
        say(&serde_json::to_string(&told).unwrap_or_default());
    } else {
        say(page::page(asked, &report, &pictures, Paint::on_stdout()).trim_end());
    }
}

/// What scripts learn.
fn judge(measured: &Measured) -> Result<(), Failure> {
    let samples = &measured.samples;
    let failed: u64 = samples.errors.values().sum();
    let (code, line) = match (measured.interrupted, samples.requests, failed) {
        (true, ..) => (INTERRUPTED, "ended before its time".to_owned()),
        (_, 0, 0) => (1, "nothing was answered in that time: give it a longer --duration".to_owned()),
        (_, 0, _) => (1, format!("nothing was answered: {failed} requests failed")),
        (_, _, 0) => return Ok(()),
        _ => (SOME_FAILED, format!("{failed} requests failed")),
    };
    Err(Failure { code, line })
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0 && *rate <= 1e6);
    rate.ok_or_else(|| "expected how many requests a second, such as 50 or 0.5".to_owned())
}
