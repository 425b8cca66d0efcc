//! The admin listener over TLS: who shows a certificate of the right authority needs no token, who has neither is told of
//! probes only.

use std::net::{Ipv4Addr, SocketAddr};

use crate::backend::{Backend, Script};
use crate::certs::Certs;
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Folder, Gateway, command, pool_of};

struct House {
    gateway: Gateway,
    certs: Certs,
    _backend: Backend,
}

impl House {
    async fn new(token: &str) -> Self {
        let (backend, certs, folder) = (Backend::start().await, Certs::new(), Folder::new());
        backend.always(Script::chat("x"));
        certs.write_to(folder.path());
        let tls = "tls: { cert: cert.pem, key: key.pem, client_ca: ca.pem }";
        let text = format!(
            "admin: {{ listen: 127.0.0.1:$ADMIN, {token} {tls} }}\nstorage: {{ path: store.db }}\n{}",
            pool_of(&[&backend])
        );
        let gateway = Gateway::start_in(folder, &text, &[]).await;
        Self { gateway, certs, _backend: backend }
    }

    /// Asks over TLS, with a certificate or without; nothing if it is not spoken to.
    async fn ask(&self, shown: Option<&Certs>, request: Request) -> Option<Answer> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.gateway.admin_port));
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = self.certs.connector_showing(shown, &[b"http/1.1"]);
        let stream = connector.connect("localhost".try_into().unwrap(), stream).await.ok()?;
        Connection::over(stream).try_exchange(&request.header("Connection", "close")).await
    }

    async fn status(&self, shown: Option<&Certs>, request: Request) -> Option<u16> {
        Some(self.ask(shown, request).await?.status)
    }

    fn path(&self, name: &str) -> String {
        self.gateway.folder.path().join(name).display().to_string()
    }
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_as_good_as_the_token_and_without_either_there_are_probes_only() {
    let house = House::new("token: secret-token,").await;
    let (ours, other) = (Some(&house.certs), Certs::new());
    let look = || Request::get("/healthz");
    assert_eq!(house.status(ours, look()).await, Some(200));
    assert_eq!(house.status(None, look().bearer("secret-token")).await, Some(200));
    assert_eq!(house.status(ours, look().bearer("wrong")).await, Some(200), "it needs none");
    assert_eq!(house.status(Some(&other), look()).await, None, "whose authority nobody knows is not spoken to");
    assert_eq!(house.status(Some(&other), look().bearer("secret-token")).await, None);
    for request in [look(), look().bearer("wrong"), Request::get("/metrics"), Request::get("/admin/keys")] {
        let answer = house.ask(None, request).await.unwrap();
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")));
        assert!(answer.text().contains("neither the admin token nor a client certificate"), "{}", answer.text());
    }
    for path in ["/livez", "/readyz", "/", "/docs", "/openapi.json"] {
        assert_eq!(house.status(None, Request::get(path)).await, Some(200), "{path}");
    }
    assert_eq!(house.status(ours, Request::get("/admin/keys")).await, Some(200), "keys may be managed");
    // A browser shows the certificate whatever page has it ask.
    let drain = |origin: &str| {
        let request = Request::post("/admin/log", "{}").header("Origin", origin);
        request.without("Host").header("Host", "gateway:9090")
    };
    assert_eq!(house.status(ours, drain("https://evil.example")).await, Some(403));
    assert_ne!(house.status(ours, drain("https://gateway:9090")).await, Some(403));
    // Who speaks no TLS is not spoken to.
    let mut plain = Connection::open(house.gateway.admin_address()).await;
    assert!(plain.try_exchange(&look()).await.is_none_or(|answer| answer.status == 400));
}

#[tokio::test]
async fn without_a_token_the_certificate_is_the_only_way_in_and_commands_show_it() {
    let house = House::new("").await;
    let answer = house.ask(None, Request::get("/metrics")).await.unwrap();
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("no client certificate"), "{}", answer.text());
    assert_eq!(house.gateway.send(&Request::chat("m")).await.status, 200);
    let (file, ca) = (house.path("gateway.yaml"), house.path("ca.pem"));
    let shown = ["--admin-cert", &house.path("cert.pem"), "--admin-key", &house.path("key.pem")].map(str::to_owned);
    let url = format!("https://localhost:{}", house.gateway.admin_port);
    let run = |arguments: &[&str], shown: &[String]| {
        let all: Vec<&str> = arguments.iter().copied().chain(shown.iter().map(String::as_str)).collect();
        let output = command(&all);
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for arguments in [
        &["top", "--once", "--format", "json", "--config", &file][..],
        &["top", "--once", "--format", "json", "--admin", &url, "--admin-ca", &ca],
        &["upgrade", &file],
    ] {
        let (fine, said) = run(arguments, &[]);
        assert!(!fine && said.contains("--admin-cert"), "{arguments:?}: {said}");
        if arguments[0] != "upgrade" {
            let (fine, said) = run(arguments, &shown);
            assert!(fine && said.starts_with('{'), "{arguments:?}: {said}");
        }
    }
    let (fine, said) = run(&["top", "--once", "--admin", &url], &shown);
    assert!(!fine && said.contains("does not answer"), "who has signed its certificate is not known: {said}");
}

#[tokio::test]
async fn the_certificate_is_replaced_while_it_runs() {
    let house = House::new("token: secret-token,").await;
    let (before, after) = (Some(&house.certs), Certs::new());
    assert_eq!(house.status(before, Request::get("/healthz")).await, Some(200));
    // The authority of callers stays.
    for (name, text) in [("cert.pem", &after.cert_pem), ("key.pem", &after.key_pem)] {
        std::fs::write(house.gateway.folder.path().join(name), text).unwrap();
    }
    house.gateway.signal("HUP");
    house.gateway.log.line(|line| line["message"] == "certificate reloaded").await;
    assert_eq!(house.status(before, Request::get("/healthz")).await, None, "another one is shown now");
}

#[test]
fn what_cannot_be_shown_or_trusted_is_a_fault_at_its_place() {
    let (folder, certs) = (Folder::new(), Certs::new());
    certs.write_to(folder.path());
    let check = |admin: &str| {
        let text = format!("admin: {admin}\npools:\n  main: {{ backends: ['http://127.0.0.1:1'] }}\n");
        let output = command(&["check", folder.write("gateway.yaml", &text).to_str().unwrap()]);
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (fine, said) = check("{ listen: 0.0.0.0:9090, tls: { cert: cert.pem, key: key.pem, client_ca: ca.pem } }");
    assert!(fine, "{said}");
    for (admin, part) in [
        ("{ listen: 0.0.0.0:9090, tls: { cert: cert.pem, key: key.pem } }", "open to others without a token"),
        ("{ tls: { cert: cert.pem, key: key.pem, client_ca: key.pem } }", "client_ca"),
        ("{ tls: { cert: key.pem, key: key.pem } }", "tls"),
        ("{ tls: { cert: cert.pem, key: key.pem, client_ca: none.pem } }", "none.pem"),
    ] {
        let (fine, said) = check(admin);
        assert!(!fine && said.contains(part), "{admin}: {said}");
    }
}
