//! Every example file in config/ starts, alone, with nothing but its environment filled in.

use std::path::Path;

use crate::certs::Certs;
use crate::gateway::{Folder, Gateway, command};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config");

#[tokio::test]
async fn every_example_starts() {
    let mut started = 0;
    for entry in std::fs::read_dir(Path::new(CONFIG).join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text
            .replace("127.0.0.1:8080", "127.0.0.1:$PORT")
            .replace("127.0.0.1:8443", "127.0.0.1:$PORT")
            .replace("listen: 127.0.0.1:9090", "listen: 127.0.0.1:$ADMIN");
        let folder = Folder::new();
        Certs::new().write_to(folder.path());
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (cert, key, ca, runtime) = (file("cert.pem"), file("key.pem"), file("ca.pem"), file(""));
        let environment = [
            ("TLS_CERT", &*cert),
            ("TLS_KEY", &*key),
            ("BACKEND_CA", &*ca),
            ("OPERATORS_CA", &*ca),
            ("RUNTIME_DIRECTORY", &*runtime),
            ("ADMIN_TOKEN", "of-the-test"),
            ("KEY_PEPPER", "of-the-test"),
        ];
        let gateway = Gateway::start_in(folder, &text, &environment).await;
        // Who speaks TLS there says so by being spoken to (`admin_tls`).
        if !text.contains("client_ca") {
            assert_eq!(gateway.admin("/livez").await.status, 200, "{}", path.display());
        }
        started += 1;
    }
    assert!(started >= 5, "{started} examples");
}

#[test]
fn the_reference_file_passes_its_own_check() {
    let output = command(&["check", &format!("{CONFIG}/gateway.yaml")]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

/// What is shown in the guides is meant to be copied: each is a file, or becomes one with the pools and models it speaks of.
#[test]
fn every_file_in_the_guides_passes_check() {
    let (mut judged, mut wrong) = (0, Vec::new());
    for guide in std::fs::read_dir(Path::new(CONFIG).join("../docs")).unwrap() {
        let guide = guide.unwrap().path();
        let name = guide.file_name().unwrap().to_string_lossy().into_owned();
        // The configuration's own tests read the files of the one; the other is about a filter that is not built in.
        if !name.starts_with("guide-") || ["guide-config.md", "guide-filter.md"].contains(&&*name) {
            continue;
        }
        let text = std::fs::read_to_string(&guide).unwrap();
        for shown in text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let (file, is_whole) = completed(shown);
            let said = checked(&file);
            if said.contains("error: ") || is_whole && said.contains("warning: ") {
                wrong.push(format!("{name}:\n{file}\n{said}"));
            }
            judged += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(judged >= 25, "{judged} files");
}

/// With the pools, the models and the filters that it speaks of but does not show; and whether it was whole without.
fn completed(shown: &str) -> (String, bool) {
    let has = |section: &str| shown.lines().any(|line| line.starts_with(section));
    let mut file = if has("- ") { format!("filters:\n{shown}") } else { shown.to_owned() };
    if !has("pools:") {
        let pool = |name: &str| format!("  {name}: {{ backends: [http://127.0.0.1:8000] }}\n");
        file += &("pools:\n".to_owned() + &["main", "llama", "local", "cloud"].map(pool).concat());
    }
    if !has("models:") && (!has("pools:") || shown.matches("\n    discover:").count() > 1) {
        let pool = if has("pools:") { "engines" } else { "main" };
        let names = if has("prices:") { vec!["\"gpt-4o*\""] } else { vec!["small", "large", "next", "chat", "\"*\""] };
        let model = |name: &&str| format!("  {name}: {{ pool: {pool} }}\n");
        file += &("models:\n".to_owned() + &names.iter().map(model).collect::<String>());
    }
    if has("tenants:") && shown.contains("limits: ") && !has("filters:") {
        file += "filters: [{ api_key: { keys_file: keys.yaml } }, { limits: [] }]\n";
    }
    let is_whole = file == shown;
    (file, is_whole)
}

/// What `check` says of a file.
fn checked(text: &str) -> String {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("tls")).unwrap();
    Certs::new().write_to(&folder.path().join("tls"));
    folder.write("keys.yaml", &format!("- {{ id: a, hash: \"{}\", org: acme }}\n", "0".repeat(64)));
    folder.write("backends.yaml", "- http://127.0.0.1:8000\n");
    // What stands in the environment of whoever copies it.
    let mut parts = text.split("${env:");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        filled += "0123456789abcdef";
        filled += part.split_once('}').expect("a reference ends").1;
    }
    // Directories that have to be there.
    std::fs::create_dir(folder.path().join("records")).unwrap();
    let filled = filled.replace("/var/lib/tidegate/records", "records");
    let path = folder.write("gateway.yaml", &filled);
    let output = command(&["check", &path.display().to_string()]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
