//! What is asked, of whom.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use tidegate_bench_load::{Answered, DIGITS, Plan, Request, Target, Way, ask, made_up};
use tidegate_config::Secret;

use super::Said;
use crate::commands::Failure;
use crate::commands::discover::{Found, names};
use crate::commands::say::in_words;

/// What a server can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Endpoint {
    /// Chat completions
    Chat,
    /// Completions of a text
    Completions,
    /// Embeddings
    Embeddings,
}

impl Endpoint {
    const ALL: [Self; 3] = [Self::Chat, Self::Completions, Self::Embeddings];

    fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Embeddings => "/embeddings",
        }
    }

    /// A request's body.
    fn body(self, model: &str, prompt: &str, tokens: u32, stream: bool) -> Value {
        let mut body = match self {
            Self::Chat => json!({"model": model, "messages": [{"role": "user", "content": prompt}]}),
            Self::Completions => json!({"model": model, "prompt": prompt}),
            Self::Embeddings => return json!({"model": model, "input": prompt}),
        };
        if tokens > 0 {
            body["max_tokens"] = tokens.into();
        }
        if stream {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}

/// Where it is asked.
pub(super) struct Place {
    pub(super) target: Target,
    pub(super) endpoint: Endpoint,
    /// What all paths begin with, such as `/v1`.
    base: String,
}

impl Place {
    /// Takes a URL as people have it: with `/v1` or without, and with the endpoint at its end or without.
    pub(super) fn read(url: &str, endpoint: Option<Endpoint>) -> Result<Self, String> {
        let target = match url.contains("://") {
            true => Target::parse(url)?,
            false => Target::parse(&format!("http://{url}"))?,
        };
        let path = target.path.trim_end_matches('/');
        let named = Endpoint::ALL.into_iter().find_map(|end| Some((end, path.strip_suffix(end.path())?)));
        let (ending, base) = match named {
            Some((ending, base)) => (Some(ending), base),
            None if path.is_empty() => (None, "/v1"),
            None => (None, path),
        };
        let base = base.to_owned();
        Ok(Self { target, endpoint: endpoint.or(ending).unwrap_or(Endpoint::Chat), base })
    }

    fn path(&self) -> String {
        format!("{}{}", self.base, self.endpoint.path())
    }

    /// The whole URL that is asked.
    pub(super) fn url(&self) -> String {
        let scheme = if self.target.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.target.authority, self.path())
    }
}

/// What each request has in its head.
pub(super) struct Headers(Vec<String>);

impl Headers {
    pub(super) fn new(place: &Place, key: Option<Secret>, more: &[String]) -> Self {
        let mut lines = vec![
            format!("host: {}", place.target.authority),
            "accept: application/json, text/event-stream".to_owned(),
            "content-type: application/json".to_owned(),
            format!("user-agent: tidegate-bench/{}", env!("CARGO_PKG_VERSION")),
        ];
        lines.extend(key.map(|key| format!("authorization: Bearer {}", key.expose())));
        lines.extend_from_slice(more);
        Self(lines)
    }
}

impl Said {
    /// Each request. Where no two may be the same, a number stands at the beginning of the prompt.
    pub(super) fn request(
        &self,
        place: &Place,
        headers: &Headers,
        model: Option<&str>,
        stream: bool,
    ) -> Result<Request, Failure> {
        if let Some(file) = &self.body {
            let read = std::fs::read(file);
            let body = read.map_err(|error| Failure::bad_input(format!("--body {}: {error}", file.display())))?;
            return Ok(Request::post(&place.path(), &headers.0, &body, None));
        }
        let said = self.prompt.clone().unwrap_or_else(|| made_up::text(self.prompt_size as usize));
        // What cannot be in a prompt by chance.
        let mark = "#".repeat(DIGITS);
        let prompt = if self.distinct { format!("{mark} {said}") } else { said };
        let body = place.endpoint.body(model.unwrap_or_default(), &prompt, self.max_tokens, stream).to_string();
        let number = body.find(&mark).filter(|_| self.distinct);
        Ok(Request::post(&place.path(), &headers.0, body.as_bytes(), number))
    }
}

/// The model, where there is no choice.
pub(super) fn only_model(place: &Place, way: &Way, headers: &Headers, patience: Duration) -> Result<String, Failure> {
    let request = Request::get(&format!("{}/models", place.base), &headers.0);
    let url = format!("{}/models", place.url().trim_end_matches(place.endpoint.path()));
    let answered = ask(way, &request, patience).map_err(|error| away(&url, &error))?;
    if !(200..300).contains(&answered.status) {
        let line = format!("{} (name a model with --model, if there is no list)", refused(&url, &answered));
        return Err(Failure::could_not(line));
    }
    let list: Value = serde_json::from_slice(&answered.body).unwrap_or_default();
    match names(list.get("data")) {
        Found::Models(models) if models.len() == 1 => Ok(models.into_iter().next().unwrap_or_default()),
        Found::Models(models) => {
            let some: Vec<_> = models.iter().take(20).map(String::as_str).collect();
            Err(Failure::bad_input(format!("which model? Name one with --model: {}", some.join(", "))))
        }
        Found::NoList => Err(Failure::bad_input(format!("{url} lists no model: name one with --model"))),
    }
}

/// Asks once before it is measured, so that what no repetition mends is told at once and in words.
pub(super) fn try_once(plan: &Plan, url: &str) -> Result<(), Failure> {
    let patience = plan.timeout.unwrap_or(Duration::from_secs(120));
    let answered = ask(&plan.way, &plan.request, patience).map_err(|error| away(url, &error))?;
    match answered.status {
        200..300 if plan.stream && !answered.is_stream => {
            Err(Failure::could_not(format!("{url} answers, but not with a stream that ends with [DONE]")))
        }
        // What may be otherwise the next time is measured.
        200..300 | 408 | 429 | 500.. => Ok(()),
        _ => Err(Failure::could_not(refused(url, &answered))),
    }
}

fn away(url: &str, error: &std::io::Error) -> Failure {
    Failure::could_not(format!("{url}: {}", in_words(error)))
}

/// An answer that is no good one, in its own words. They are somebody else's: a terminal is not to obey them.
fn refused(url: &str, answered: &Answered) -> String {
    const LONGEST: usize = 300;
    let told: Value = serde_json::from_slice(&answered.body).unwrap_or_default();
    let message = told["error"]["message"].as_str().or(told["error"].as_str()).or(told["detail"].as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(&answered.body).into_owned(), str::to_owned);
    let words: String = text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect();
    let hint = match answered.status {
        401 | 403 => format!("; the key is read from {} or --key-file", super::key::VARIABLE),
        _ => String::new(),
    };
    format!("{url} answers {}: {words}{hint}", answered.status)
}

/// `NAME: VALUE` as it goes on the wire.
pub(super) fn header(text: &str) -> Result<String, String> {
    let expected = || "expected NAME: VALUE".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name: http::HeaderName = name.trim().parse().map_err(|_| expected())?;
    let value: http::HeaderValue = value.trim().parse().map_err(|_| expected())?;
    Ok(format!("{name}: {}", value.to_str().map_err(|_| expected())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_as_people_have_it() {
        let read = |url, endpoint| Place::read(url, endpoint).map(|place| place.url());
        let chat = "http://h:1/v1/chat/completions";
        for url in ["http://h:1", "http://h:1/", "h:1", "http://h:1/v1", "http://h:1/v1/", chat] {
            assert_eq!(read(url, None).unwrap(), chat, "{url}");
        }
        assert_eq!(read("https://h/base", None).unwrap(), "https://h/base/chat/completions");
        assert_eq!(read("http://h/v1/embeddings", None).unwrap(), "http://h/v1/embeddings");
        assert_eq!(read("http://h/v1/completions", None).unwrap(), "http://h/v1/completions");
        assert_eq!(read(chat, Some(Endpoint::Embeddings)).unwrap(), "http://h:1/v1/embeddings");
        assert!(read("ftp://h", None).is_err());
    }

    #[test]
    fn a_number_stands_where_the_prompt_begins() {
        let place = Place::read("http://h", None).unwrap();
        let said =
            Said { prompt: Some("a \"b\"".to_owned()), prompt_size: 0, max_tokens: 0, distinct: true, body: None };
        let mut request = said.request(&place, &Headers::new(&place, None, &[]), Some("m"), true).unwrap();
        request.bytes[request.number.unwrap()].copy_from_slice(b"0000000000000007");
        let text = String::from_utf8(request.bytes).unwrap();
        let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["messages"][0]["content"], "0000000000000007 a \"b\"");
        assert_eq!((body["stream"].as_bool(), body.get("max_tokens")), (Some(true), None));
    }

    #[test]
    fn headers_are_read_as_they_are_meant() {
        assert_eq!(header("X-A:  b: c ").unwrap(), "x-a: b: c");
        for wrong in ["x", "x y: z", "x: a\nb: c"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }
}
