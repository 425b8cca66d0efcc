//! Ready-made calls for a terminal: pasted as they are, they stream an answer. They use nothing but curl and
//! the standard libraries, so that they also work where no SDK is installed; an SDK needs only the base URL
//! and the key.

use serde_json::json;

/// Whom to call, and as whom.
pub(super) struct Call<'a> {
    /// `http://127.0.0.1:8080/v1`.
    pub(super) base_url: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) model: &'a str,
}

impl Call<'_> {
    pub(super) fn curl(&self) -> String {
        let key = self.key.map(|key| format!("  -H {} \\\n", quoted(&format!("Authorization: Bearer {key}"))));
        format!(
            "curl -N {} \\\n{}  -H 'Content-Type: application/json' \\\n  -d {}",
            quoted(&format!("{}/chat/completions", self.base_url)),
            key.unwrap_or_default(),
            quoted(&self.body("true")),
        )
    }

    pub(super) fn python(&self) -> String {
        format!(
            r#"python3 - <<'EOF'
import json, urllib.request
request = urllib.request.Request(
    {url},
    headers={headers},
    data=json.dumps({body}).encode(),
)
for line in urllib.request.urlopen(request):
    if line.startswith(b"data: {{"):
        for choice in json.loads(line[6:])["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
print()
EOF"#,
            url = self.url(),
            headers = self.headers(),
            body = self.body("True"),
        )
    }

    pub(super) fn node(&self) -> String {
        format!(
            r#"node --input-type=module - <<'EOF'
const answer = await fetch({url}, {{
  method: "POST",
  headers: {headers},
  body: JSON.stringify({body}),
}});
let rest = "";
for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) {{
  const lines = (rest + piece).split("\n");
  rest = lines.pop();
  for (const line of lines.filter((line) => line.startsWith("data: {{")))
    process.stdout.write(JSON.parse(line.slice(6)).choices[0]?.delta.content ?? "");
}}
console.log();
EOF"#,
            url = self.url(),
            headers = self.headers(),
            body = self.body("true"),
        )
    }

    fn url(&self) -> String {
        json!(format!("{}/chat/completions", self.base_url)).to_string()
    }

    fn headers(&self) -> String {
        let mut headers = json!({"Content-Type": "application/json"});
        if let Some(key) = self.key {
            headers["Authorization"] = json!(format!("Bearer {key}"));
        }
        headers.to_string()
    }

    /// The body, in JSON or in Python, which differ in how they spell true. No exclamation mark: an interactive shell
    /// would look it up in its history.
    fn body(&self, yes: &str) -> String {
        let model = json!(self.model);
        format!(
            r#"{{"model": {model}, "stream": {yes}, "messages": [{{"role": "user", "content": "Hello, who are you?"}}]}}"#
        )
    }
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};
    use std::time::Duration;

    use tidegate::simulator::{Simulator, serve};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn they_stream_an_answer_when_pasted_into_a_shell() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let model = "it's/a \"model\"";
        let settings = Simulator {
            models: vec![model.to_owned()],
            key: Some("secret".to_owned()),
            pace: Duration::ZERO,
            first_token: Duration::ZERO,
        };
        tokio::spawn(serve(listener, settings));
        for key in [Some("secret"), None] {
            let call = Call { base_url: &base_url, key, model };
            for snippet in [call.curl(), call.python(), call.node()] {
                let Output { stdout, stderr, .. } = paste(&snippet).await;
                let (said, failed) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
                // A word of the story's end: in curl's events the words stand apart.
                assert_eq!(said.contains("arrive"), key.is_some(), "{snippet}\n{said}\n{failed}");
            }
        }
    }

    async fn paste(snippet: &str) -> Output {
        let mut shell = Command::new("sh");
        // A proxy of the machine must not come between the test and loopback.
        shell.args(["-c", snippet]).env("no_proxy", "*").env("NO_PROXY", "*");
        tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap()
    }

    #[test]
    fn a_word_with_quotes_stays_one_word() {
        assert_eq!(quoted("http://127.0.0.1:8080/v1"), "http://127.0.0.1:8080/v1");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
