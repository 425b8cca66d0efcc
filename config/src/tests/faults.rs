//! Each way to get a file wrong, what is said about it, and where.

use super::{POOL, World, faults};
use crate::{Severity, Source};

/// The only error of `text` has `message` in it and stands at `line` and `column`.
fn refused(text: &str, message: &str, (line, column): (usize, usize)) {
    let errors: Vec<_> = faults(text).into_iter().filter(|fault| fault.severity == Severity::Error).collect();
    let [fault] = &errors[..] else { panic!("one error expected of {text:?}: {errors:#?}") };
    let said = format!("{} {}", fault.message, fault.help.as_deref().unwrap_or_default());
    assert!(said.contains(message), "{text:?}: {said}");
    assert_eq!((fault.line(), fault.column()), (Some(line), Some(column)), "{fault}");
}

/// The same, for a file that begins with a good pool on its first line.
fn refused_beside_a_pool(text: &str, message: &str, (line, column): (usize, usize)) {
    refused(&format!("{POOL}{text}"), message, (line + 1, column));
}

#[test]
fn text_that_is_not_yaml_is_refused_at_its_line() {
    refused("pools:\n  a: \"open\n  b: 1\n", "not YAML", (2, 6));
    refused("pools:\n\ta: 1\n", "a tab in the indentation", (2, 1));
    refused("pools: {}\n---\npools: {}\n", "second document", (2, 1));
    refused("pools: {{x}}\n", "put the value in quotes", (1, 9));
    refused("pools:\n  <<: {}\n", "merge keys", (2, 3));
    refused("pools: !pool x\n", "tags (`!pool`) mean nothing here", (1, 14));
    refused("just words", "expected a table of settings", (1, 1));
    refused("", "there are no pools", (1, 1));
}

#[test]
fn a_file_that_is_not_utf8_is_refused_at_its_line() {
    let faults = Source::from_bytes("gateway.yaml", b"listen: a\npools: \xff\n".to_vec()).unwrap_err().0;
    assert_eq!((faults[0].line(), faults[0].column()), (Some(2), Some(8)));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_key() {
    super::loaded(&format!("\u{feff}{POOL}"));
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 8].join(", "));
    }
    assert!(faults(&text)[0].message.contains("counting what aliases repeat"));
    let deep = format!("pools: {}1{}", "[".repeat(100), "]".repeat(100));
    assert!(faults(&deep)[0].message.contains("nested deeper"));
}

#[test]
fn a_key_given_twice_is_refused_at_its_second_place() {
    refused_beside_a_pool("log: {}\nadmin: {}\nlog: {}\n", "`log` is already set on line 2", (3, 1));
}

#[test]
fn a_misspelt_key_or_word_is_refused_with_the_right_one() {
    refused_beside_a_pool("limit: {}\n", "did you mean `limits`?", (1, 1));
    refused_beside_a_pool("limits:\n  head-timeout: 1s\n", "did you mean `head_timeout`?", (2, 3));
    refused_beside_a_pool("log: { level: inf }\n", "did you mean `info`?", (1, 15));
    refused_beside_a_pool("other_paths: { pol: main }\n", "did you mean `pool`?", (1, 21));
    refused_beside_a_pool("timeouts: { zzz: 1s }\n", "expected one of connect, first_byte", (1, 13));
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    refused_beside_a_pool("limits: { headers: many }\n", "expected a whole number from 0, found a text", (1, 20));
    refused_beside_a_pool("limits: { headers: -1 }\n", "expected a whole number from 0", (1, 20));
    refused_beside_a_pool("answer_headers: yes\n", "expected true or false, found a text", (1, 17));
    refused_beside_a_pool("default_model: 4\n", "put it in quotes", (1, 16));
    refused_beside_a_pool("admin: [1]\n", "expected a table, found a list", (1, 8));
    refused_beside_a_pool("listen: 8080\n", "write 127.0.0.1:8080", (1, 9));
    refused_beside_a_pool("drain: { time: 30 }\n", "write 30s", (1, 16));
    refused_beside_a_pool("limits: { body: 1s }\n", "such as 512, 64KiB", (1, 17));
}

#[test]
fn a_limit_or_timeout_of_nothing_is_refused() {
    refused_beside_a_pool("limits: { connections: 0 }\n", "nothing would get through", (1, 24));
    refused_beside_a_pool("limits: { head_timeout: 0s }\n", "nothing would get through", (1, 25));
    refused_beside_a_pool("limits: { bodies_in_flight: 1MiB }\n", "the largest body could never", (1, 29));
    refused_beside_a_pool("limits: { requests: 0 }\n", "nothing would get through", (1, 21));
    refused_beside_a_pool("limits: { shed: { batch: 0% } }\n", "no `batch` request is ever served", (1, 26));
    refused_beside_a_pool("limits: { shed: { normal: 50% } }\n", "`normal` is refused before `batch`", (1, 27));
    refused_beside_a_pool("timeouts: { idle: 0s }\n", "a timeout cannot be 0", (1, 19));
    refused_beside_a_pool("models: { m: { pool: main, timeouts: { total: 0s } } }\n", "a timeout cannot", (1, 47));
}

#[test]
fn an_address_that_cannot_be_listened_on_is_refused() {
    for (address, message) in [
        ("127.0.0.1", "the port is missing"),
        (":8080", "write 0.0.0.0:8080"),
        ("http://127.0.0.1:80", "this is a URL"),
        ("localhost:99999", "from 0 to 65535"),
        ("\"unix:\"", "the path of the Unix socket is missing"),
        ("a b:80", "expected IP:PORT"),
    ] {
        refused_beside_a_pool(&format!("listen: {address}\n"), message, (1, 9));
    }
    refused_beside_a_pool("listen: []\n", "nobody could connect", (1, 9));
    refused_beside_a_pool("listen: [127.0.0.1:1, 127.0.0.1:1]\n", "already listened on", (1, 23));
    refused_beside_a_pool("listen: 127.0.0.1:9090\n", "already listened on", (1, 9));
}

#[test]
fn an_admin_listener_open_to_others_needs_a_token() {
    refused_beside_a_pool("admin: { listen: \"0.0.0.0:9090\" }\n", "without a token", (1, 18));
    refused_beside_a_pool("admin: { token: \"\" }\n", "the token is empty", (1, 17));
}

#[test]
fn a_certificate_that_cannot_be_read_is_refused() {
    let text = "listen: { address: 127.0.0.1:1, tls: { cert: c.pem, key: k.pem } }\n";
    let world = World::default().file("c.pem", "-----BEGIN CERTIFICATE-----").file("k.pem", "nothing");
    let faults = world.load(&format!("{POOL}{text}")).unwrap_err().0;
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert_eq!(faults[0].message, "this file has no private key in PEM form");
    assert_eq!(super::faults(&format!("{POOL}{text}")).len(), 2, "both are missing elsewhere");
}

#[test]
fn a_backend_url_that_cannot_work_is_refused() {
    for (url, message) in [
        ("127.0.0.1:8000", "does not say http://"),
        ("ftp://a:1", "cannot be a backend"),
        ("http://", "not a URL"),
        ("http://a:0", "from 1 to 65535"),
        ("http://a:1/?x=1", "no `?`"),
        ("http://me:secret@a", "credentials do not belong into the URL"),
        ("https://10.0.0.1", "cannot be verified without a name"),
    ] {
        refused(&format!("pools:\n  a:\n    backends:\n      - {url}\n"), message, (4, 9));
        refused(&format!("pools:\n  a:\n    backends:\n      - url: {url}\n"), message, (4, 14));
    }
    refused("pools: { a: { http2: true, backends: [\"unix:/x\"] } }\n", "HTTP/2 to a Unix socket", (1, 39));
}

#[test]
fn a_pool_that_cannot_answer_is_refused() {
    refused("pools: { a: {} }\n", "the pool has no backends", (1, 13));
    refused("pools: { a: { backends: [] } }\n", "the pool has no backends", (1, 25));
    refused("pools: { a: { backends: [{ url: http://a:1, weight: 0 }] } }\n", "all weights are 0", (1, 25));
    refused("pools: { a: { backends: [http://a:1, http://a:1] } }\n", "already in this pool", (1, 38));
    refused("pools: { a: { backends: [{ weight: 1 }] } }\n", "`url` is missing", (1, 26));
    refused("pools: { a: { health: sometimes, backends: [http://a:1] } }\n", "expected `off`", (1, 23));
    refused("pools: { a: { health: { every: 0s }, backends: [http://a:1] } }\n", "cannot be 0", (1, 32));
    refused("pools: { a: { health: { path: x }, backends: [http://a:1] } }\n", "a path begins with", (1, 31));
    refused("pools: { a: { tls: { ca: x.pem }, backends: [https://a] } }\n", "cannot read x.pem", (1, 26));
    refused("pools: { \"a b\": { backends: [http://a:1] } }\n", "visible ASCII", (1, 10));
}

#[test]
fn a_backend_setting_that_cannot_work_is_refused() {
    for (setting, message, column) in [
        ("max_in_flight: 0", "takes no request", 68),
        ("weight: 2000000", "cannot be more than", 61),
        ("key: \"a\\nb\"", "no header can hold", 58),
        ("headers: { \"a b\": x }", "not the name of a header", 64),
        ("headers: { Host: x }", "set by the gateway itself", 64),
        ("key: \"${env:K}\", headers: { Authorization: x }", "already set by `key`", 81),
        ("auth: basic", "unknown word `basic`", 59),
    ] {
        let text = format!("pools: {{ a: {{ backends: [http://b, {{ url: http://a, {setting} }}] }} }}\n");
        let faults = World::default().var("K", "v").load(&text).unwrap_err().0;
        let errors: Vec<_> = faults.iter().filter(|fault| fault.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 1, "{faults:#?}");
        assert!(errors[0].message.contains(message), "{}", errors[0]);
        assert_eq!((errors[0].line(), errors[0].column()), (Some(1), Some(column)), "{}", errors[0]);
    }
}

#[test]
fn a_model_that_nobody_answers_is_refused() {
    refused_beside_a_pool("models: { m: { pool: mian } }\n", "did you mean `main`?", (1, 22));
    refused_beside_a_pool("models: { m: { pool: other } }\n", "the pools are main", (1, 22));
    refused_beside_a_pool("models: { m: {} }\n", "does not say which pool", (1, 11));
    refused_beside_a_pool("models: { m: { pool: main, split: [] } }\n", "either `pool` or `split`", (1, 28));
    refused_beside_a_pool("models: { m: { split: [] } }\n", "the split is empty", (1, 23));
    refused_beside_a_pool("models: { m: { split: [{ pool: main, weight: 0 }] } }\n", "all weights are 0", (1, 23));
    refused_beside_a_pool("models: { m: { as: x, split: [{ pool: main }] } }\n", "own `as`", (1, 16));
    refused_beside_a_pool("models: { \"*m\": { pool: main } }\n", "only stand at the end", (1, 11));
    refused_beside_a_pool("models: { llama: { pool: main } }\ndefault_model: lama\n", "did you mean", (2, 16));
    refused_beside_a_pool("other_paths: { pool: mian }\n", "did you mean `main`?", (1, 22));
    let several = "pools:\n  a: { backends: [http://a:1] }\n  b: { backends: [http://b:1] }\n";
    refused(several, "there are several pools", (1, 1));
}

#[test]
fn a_filter_whose_settings_are_not_indented_is_refused_with_advice() {
    refused_beside_a_pool("filters:\n  - api_key:\n    keys: []\n", "indent the settings further", (2, 5));
}

#[test]
fn an_origin_that_no_browser_sends_is_refused() {
    for origin in
        ["https://app.example.com/", "app.example.com", "https://*.example.com", "https://", "https://a.com:443"]
    {
        refused_beside_a_pool(&format!("cors: {{ origins: [\"{origin}\"] }}\n"), "not an origin", (1, 19));
    }
    refused_beside_a_pool("cors: { origins: [] }\n", "no origins", (1, 18));
    refused_beside_a_pool("cors: {}\n", "`origins` is missing", (1, 1));
    refused_beside_a_pool("cors: { origins: [\"*\"], headers: [\"a b\"] }\n", "name of a header", (1, 35));
}

#[test]
fn a_network_that_is_none_is_refused_at_its_place() {
    refused_beside_a_pool("trusted_proxies: [10.0.0.1/8]\n", "write 10.0.0.0/8 or 10.0.0.1", (1, 19));
    refused_beside_a_pool("clients: { allow: [10.0.0.0/8], deny: [here] }\n", "expected a network", (1, 40));
    refused_beside_a_pool(
        "listen: { address: 127.0.0.1:1, clients: { deny: [here] } }\n",
        "expected a network",
        (1, 51),
    );
}

#[test]
fn a_listener_for_proxies_where_none_is_trusted_is_refused() {
    let listen = "listen: { address: 127.0.0.1:1, proxy_protocol: true }\n";
    refused_beside_a_pool(listen, "add the proxy's address to `trusted_proxies`", (1, 49));
    refused_beside_a_pool(&format!("{listen}trusted_proxies: [unix]\n"), "add the proxy's address", (1, 49));
    let listen = "listen: { address: \"unix:/x\", proxy_protocol: true }\n";
    refused_beside_a_pool(&format!("{listen}trusted_proxies: [10.0.0.1]\n"), "add `unix` to", (1, 47));
    super::loaded(&format!("{POOL}{listen}trusted_proxies: [unix]\n"));
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_file() {
    let text = "listn: x\nlisten: y\nlimits: { body: 1s, head: 2s }\nmodels: { m: { pool: b } }\npools: { a: {} }\n";
    let lines: Vec<_> = faults(text).iter().map(|fault| fault.line().unwrap()).collect();
    assert_eq!(lines, [1, 2, 3, 3, 4, 5]);
}

#[test]
fn what_only_follows_from_a_fault_is_not_reported() {
    refused("pools: { a: { backends: [nonsense] } }\n", "does not say http://", (1, 26));
    refused("pools: { a: { backends: [{ url: nonsense }] } }\n", "does not say http://", (1, 33));
    refused("pools: { a: 4 }\nmodels: { m: { pool: a } }\n", "expected a table", (1, 13));
    refused_beside_a_pool("models: { m: { pool: [] } }\ndefault_model: m\n", "found a list", (1, 22));
    refused_beside_a_pool("other_paths: { pool: \"${env:NOPE}\" }\n", "NOPE is not set", (1, 22));
}

#[test]
fn a_fault_is_drawn_with_its_line_and_a_caret() {
    let faults = World::default().load(&format!("{POOL}limit: {{}}\n")).unwrap_err();
    let expected = "error: unknown key `limit`\n --> gateway.yaml:2:1\n  |\n2 | limit: {}\n  | ^^^^^\n  = at: limit\n  = \
                    help: did you mean `limits`?\n\n1 error";
    assert_eq!(faults.to_string(), expected);
    let json = &faults.to_json()[0];
    assert_eq!(json["path"], "limit");
    assert_eq!((&json["line"], &json["column"]), (&2.into(), &1.into()));
}

#[test]
fn retries_that_cannot_be_meant_are_refused_at_their_place() {
    let pool = |line: &str| format!("pools:\n  a:\n    backends: [http://localhost:1]\n    {line}\n");
    refused(&pool("retries: 11"), "more than 10 times", (4, 14));
    refused(&pool("retries: { most: 99 }"), "more than 10 times", (4, 22));
    refused(&pool("retries: { on: [] }"), "nothing is named", (4, 20));
    refused(&pool("retries: { on: [connect, 200] }"), "a status from 400 to 599", (4, 30));
    refused(&pool("retries: { on: [conect] }"), "timeout, error_event", (4, 21));
    refused(&pool("retries: { budget: 20 }"), "such as 5%", (4, 24));
    refused(&pool("retries: often"), "a number from 0 to 10, or a table", (4, 14));
    refused(&pool("retries: -1"), "a number from 0 to 10, or a table", (4, 14));
}

#[test]
fn resuming_that_cannot_be_meant_is_refused_at_its_place() {
    let pool =
        |line: &str| format!("pools:\n  a:\n    backends: [http://localhost:1, http://localhost:2]\n    {line}\n");
    refused(&pool("resume: { attempts: 0 }"), "1 to 10 times", (4, 25));
    refused(&pool("resume: { attempts: 11 }"), "1 to 10 times", (4, 25));
    refused(&pool("resume: { text: 0B }"), "nothing is kept", (4, 21));
    refused(&pool("resume: { style: echo }"), "continue_final_message", (4, 22));
    refused(&pool("resume: { budget: 5% }"), "budget", (4, 15));
}

#[test]
fn a_queue_that_cannot_be_meant_is_refused_at_its_place() {
    let pool = |line: &str| format!("pools:\n  a:\n    backends: [http://localhost:1]\n    {line}\n");
    refused(&pool("queue: { most: 0 }"), "write `queue: off`", (4, 20));
    refused(&pool("queue: { max_wait: 0s }"), "cannot be 0", (4, 24));
    refused(&pool("queue: { tell: 0s }"), "cannot be 0", (4, 20));
    refused(&pool("queue: { refuse_with: 500 }"), "503 or 429", (4, 27));
    refused(&pool("queue: { weights: { acme: 0 } }"), "never be served", (4, 31));
    refused(&pool("queue: of"), "`off`, or a table", (4, 12));
}

#[test]
fn fallbacks_that_lead_nowhere_or_back_are_refused_at_their_place() {
    let models = |text: &str| format!("{POOL}models:\n{text}");
    let pool = crate::tests::loaded(POOL).config.pools[0].name.clone();
    let model = |line: &str| models(&format!("  m: {{ pool: {pool}, {line} }}\n"));
    let errors = |text: &str| {
        let faults = faults(text).into_iter().filter(|fault| fault.severity == Severity::Error);
        faults.map(|fault| (fault.path.to_string(), fault.message)).collect::<Vec<_>>()
    };
    let only = |text: &str, path: &str, message: &str| {
        let found = errors(text);
        assert!(found.len() == 1 && found[0].0 == path && found[0].1.contains(message), "{found:#?}");
    };
    only(&model("fallback: [nowhere]"), "models.m.fallback[0]", "no pool and no model `nowhere`");
    only(&model("fallback: [{ pool: nowhere }]"), "models.m.fallback[0].pool", "no pool `nowhere`");
    only(&model("fallback: [{ on: [error] }]"), "models.m.fallback[0]", "either a `pool` or a `model`");
    only(&model("fallback: [m]"), "models.m.fallback[0]", "comes back to where it began: m -> m");
    let back = format!("fallback: [{pool}]");
    only(&model(&back), "models.m.fallback[0]", &format!("comes back to where it began: m -> `{pool}`"));
    let as_other = |name: &str| format!("{{ pool: {pool}, as: {name} }}");
    only(
        &model(&format!("as: x, fallback: [{pool}, {}, {}]", as_other("x"), as_other("y"))),
        "models.m.fallback[1]",
        "comes back to where it began",
    );
    let twice = format!("fallback: [{0}, {{ pool: {pool}, as: z, on: [error] }}, {0}]", as_other("z"));
    only(&model(&twice), "models.m.fallback[2]", "has been asked by then");
    crate::tests::loaded(
        &model(&format!("split: [{{ pool: {pool} }}, {{ pool: {pool}, as: y }}], fallback: [{pool}]"))
            .replace(&format!("pool: {pool}, split"), "split"),
    );
    only(&model("overflow_after: 2s"), "models.m.overflow_after", "nowhere to go");
    only(&model("hedge: { after: p0 }"), "models.m.hedge.after", "from p50 to p99");
    only(&model("hedge: { after: 0s }"), "models.m.hedge.after", "every request would be sent twice");
    only(&model("hedge: { budget: 0% }"), "models.m.hedge.budget", "a budget of nothing");
    let three = |last: &str| {
        let line = |name: &str, next: &str| format!("  {name}: {{ pool: {pool}, fallback: [{{ model: {next} }}] }}\n");
        models(&(line("a", "b") + &line("b", "c") + &line("c", last)))
    };
    let found = errors(&three("a"));
    assert!(
        found.iter().any(|(path, why)| path == "models.c.fallback[0]" && why.contains("a -> b -> c -> a")),
        "{found:#?}"
    );
    let fine = models(&format!("  a: {{ pool: {pool}, fallback: [b] }}\n  b: {{ pool: {pool} }}\n"));
    crate::tests::loaded(&fine);
}
