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
            ("RUNTIME_DIRECTORY", &*runtime),
            ("ADMIN_TOKEN", "of-the-test"),
            ("KEY_PEPPER", "of-the-test"),
        ];
        let gateway = Gateway::start_in(folder, &text, &environment).await;
        assert_eq!(gateway.admin("/livez").await.status, 200, "{}", path.display());
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

/// The files in the guides whose filters and listeners need more than the configuration's own types to be judged.
#[test]
fn every_file_in_the_guides_passes_check() {
    let mut judged = 0;
    for guide in ["guide-clients.md", "guide-jwt.md"] {
        let text = std::fs::read_to_string(Path::new(CONFIG).join("../docs").join(guide)).unwrap();
        for file in text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let folder = Folder::new();
            std::fs::create_dir(folder.path().join("tls")).unwrap();
            Certs::new().write_to(&folder.path().join("tls"));
            let hash = "0".repeat(64);
            folder.write("keys.yaml", &format!("- {{ id: a, hash: \"{hash}\" }}\n"));
            let path = folder.write("gateway.yaml", file);
            let output = command(&["check", &path.display().to_string()]);
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success() && !said.contains("warning"), "{guide}:\n{file}\n{said}");
            judged += 1;
        }
    }
    assert!(judged >= 5, "{judged} files");
}
