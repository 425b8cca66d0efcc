//! `tidegate top` in a terminal: whoever ends it, and however, has the terminal back as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::gateway::{BINARY, refused};

/// Another screen without a cursor, and back.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_terminal_is_as_it_was_whoever_ends_it() {
    for ends in ["TERM", "HUP", "INT", "QUIT", "q", "\x03"] {
        let mut looks = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).map(File::from).unwrap();
        grantpt(&looks).unwrap();
        unlockpt(&looks).unwrap();
        let name = ptsname(&looks, Vec::new()).unwrap().into_string().unwrap();
        let tty = File::options().read(true).write(true).open(name).unwrap();
        let before = tcgetattr(&tty).unwrap();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut from, to) = (looks.try_clone().unwrap(), seen.clone());
        // It ends when nobody has the terminal open any more.
        let reader = std::thread::spawn(move || {
            let mut page = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut page) {
                to.lock().unwrap().extend_from_slice(&page[..length]);
            }
        });
        let said = || String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
        let mut top = Command::new(BINARY)
            .args(["top", "--admin", &refused()])
            .stdin(tty.try_clone().unwrap())
            .stdout(tty.try_clone().unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // That the gateway is away is said when all is set up.
        wait("nothing is shown", || said().contains(OPEN) && said().contains("does not answer"));
        assert!(!tcgetattr(&tty).unwrap().local_modes.contains(LocalModes::ICANON));
        match ends.len() {
            1 => looks.write_all(ends.as_bytes()).unwrap(),
            _ => {
                let signal = Command::new("kill").arg(format!("-{ends}")).arg(top.id().to_string()).status();
                assert!(signal.unwrap().success());
            }
        }
        wait("it does not end", || top.try_wait().unwrap().is_some());
        let after = tcgetattr(&tty).unwrap();
        assert_eq!(
            (after.local_modes, after.input_modes, after.output_modes),
            (before.local_modes, before.input_modes, before.output_modes),
            "{ends:?}"
        );
        wait("the screen and the cursor stay", || said().ends_with(CLOSE));
        drop((tty, top));
        reader.join().unwrap();
    }
}
