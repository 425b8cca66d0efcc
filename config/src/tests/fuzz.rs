//! Nothing that is fed to `load` makes it panic, and whatever it refuses has a place.

use proptest::prelude::*;

use super::World;
use crate::{Faults, Severity, Source, load};

fn reference() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.yaml")).unwrap()
}

fn load_bytes(bytes: Vec<u8>) -> Result<(), Faults> {
    let source = Source::from_bytes("gateway.yaml", bytes)?;
    let loaded = load(&source, &World::default())?;
    // What can be loaded can be shown.
    assert!(!loaded.config.masked_yaml().starts_with("# cannot"));
    Ok(())
}

/// Whether it loads or not, every error says where it is, and can be drawn.
fn judged(bytes: Vec<u8>) -> usize {
    let Err(faults) = load_bytes(bytes) else { return 0 };
    assert!(faults.errors() > 0);
    assert!(!faults.to_string().is_empty());
    for fault in faults.0.iter().filter(|fault| fault.severity == Severity::Error) {
        assert!(fault.line().is_some(), "{fault}");
    }
    faults.errors()
}

/// The lines of the reference that set something: index, indentation with `- `, key.
fn settings(lines: &[&str]) -> Vec<(usize, usize, String)> {
    let set = |line: &&str| {
        let text = line.trim_start_matches([' ', '-']);
        let key = text.split_once(':').filter(|_| !text.starts_with('#'))?.0;
        Some((line.len() - text.len(), key.to_owned()))
    };
    lines.iter().enumerate().filter_map(|(index, line)| set(line).map(|(indent, key)| (index, indent, key))).collect()
}

#[test]
fn any_one_key_of_the_reference_misspelt_is_a_fault_with_a_place() {
    let text = reference();
    let lines: Vec<&str> = text.lines().collect();
    for (index, _, key) in settings(&lines) {
        let bare = key.trim_matches('"');
        let wrong = lines[index].replacen(&key, &format!("\"{bare}zz\""), 1);
        let mut changed: Vec<&str> = lines.clone();
        changed[index] = &wrong;
        assert!(judged(changed.join("\n").into_bytes()) > 0, "{wrong}");
    }
}

#[test]
fn any_one_setting_of_the_reference_left_out_or_replaced_is_judged() {
    let text = reference();
    let lines: Vec<&str> = text.lines().collect();
    for (index, indent, key) in settings(&lines) {
        let deeper = |line: &&&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indent;
        let block = 1 + lines[index + 1..].iter().take_while(deeper).count();
        let head = &lines[index][..indent];
        for value in [None, Some(""), Some("{ zz: 1 }"), Some("[1]"), Some("-1"), Some("zz"), Some("0"), Some("\"${\"")]
        {
            let line = value.map(|value| format!("{head}{key}: {value}"));
            let mut changed: Vec<&str> = lines.clone();
            changed.splice(index..index + block, line.as_deref());
            judged(changed.join("\n").into_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        judged(bytes);
    }

    #[test]
    fn arbitrary_yaml_is_judged(parts in proptest::collection::vec(part(), 0..40)) {
        judged(parts.concat().into_bytes());
    }

    #[test]
    fn a_reference_with_anything_put_anywhere_is_judged(at in any::<prop::sample::Index>(), cut in 0..40usize, part in part()) {
        let mut bytes = reference().into_bytes();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, part.bytes());
        judged(bytes);
    }
}

/// A piece of what a file is made of.
fn part() -> impl Strategy<Value = String> {
    let known = [
        "pools:",
        "a:",
        "backends:",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        ": ",
        "\"",
        "'",
        "#",
        "&a ",
        "*a",
        "? ",
        "!!str ",
        "!x ",
        "|\n",
        ">-\n",
        "---\n",
        "\t",
        "<<: ",
        "${env:A}",
        "${",
        "models:",
        "split:",
        "listen:",
        "http://a:1",
        "unix:/a",
        "1",
        "0s",
        "key: x",
        "tls:",
        "health: off",
        "\r\n",
        "\u{feff}",
        "\u{85}",
        "é",
    ];
    prop_oneof![8 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,4}"]
}
