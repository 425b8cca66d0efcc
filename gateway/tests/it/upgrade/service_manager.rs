//! The whole dance with systemd, with a socket of its own in systemd's place.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::{PATIENCE, SOON};
use crate::backend::Backend;
use crate::client::Request;
use crate::gateway::{Folder, Gateway, lives, pool_of};

/// What was said to the service manager, in order.
struct Heard(UnixDatagram);

impl Heard {
    fn at(folder: &Folder) -> Self {
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// The next message that has this line, and all its lines.
    async fn until(&self, line: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        let mut other = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            if let Ok(size) = self.0.recv(&mut buffer) {
                let text = String::from_utf8(buffer[..size].to_vec()).unwrap();
                let lines: Vec<_> = text.lines().map(str::to_owned).collect();
                if lines.iter().any(|said| said == line) {
                    return lines;
                }
                other.push(text);
                continue;
            }
            assert!(Instant::now() < until, "nobody says {line}; but: {other:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn number(lines: &[String], name: &str) -> u64 {
    let value = lines.iter().find_map(|line| line.strip_prefix(&format!("{name}=")));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {lines:?}"))
}

/// What systemd compares with its own: microseconds of a clock that begins when the machine does.
fn monotonic() -> u64 {
    let up = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = up.split(' ').next().unwrap().parse().unwrap();
    (seconds * 1e6) as u64
}

#[tokio::test]
async fn systemd_hears_of_start_reload_upgrade_and_stop() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    let heard = Heard::at(&folder);
    let socket = folder.path().join("notify").display().to_string();
    let config = format!("{SOON}{}", pool_of(&[&backend]));
    let mut gateway = Gateway::start_in(folder, &config, &[("NOTIFY_SOCKET", &socket)]).await;
    heard.until("READY=1").await;

    let before = monotonic();
    gateway.signal("HUP");
    let reloading = heard.until("RELOADING=1").await;
    // /proc/uptime is cut to hundredths, and counts sleep, which a test machine does not.
    assert!((before.saturating_sub(20_000)..monotonic() + 20_000_000).contains(&number(&reloading, "MONOTONIC_USEC")));
    heard.until("READY=1").await;
    gateway.rewrite("pools: { main: { balnce: round_robin, backends: [http://127.0.0.1:1] } }\n");
    gateway.signal("HUP");
    heard.until("RELOADING=1").await;
    let refused = heard.until("READY=1").await;
    assert!(refused.iter().any(|line| line.contains("refused")), "{refused:?}");

    // A successor that cannot start: the main process stays the one it was.
    assert_eq!(gateway.upgrade().await.status, 409);
    gateway.rewrite(&config);
    assert_eq!(gateway.upgrade().await.status, 200);
    let pid = gateway.pid();
    heard.until(&format!("MAINPID={pid}")).await;
    let ready = heard.until("READY=1").await;
    assert!(ready.iter().all(|line| line != "STOPPING=1"), "{ready:?}");
    assert!(gateway.ended(PATIENCE).await.success());
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);

    gateway.signal("TERM");
    heard.until("STOPPING=1").await;
    let until = Instant::now() + PATIENCE;
    while lives(pid) {
        assert!(Instant::now() < until, "{}", gateway.log.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
