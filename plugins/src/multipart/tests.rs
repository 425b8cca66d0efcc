use super::*;

const DISPOSITION: &str = "Content-Disposition: form-data; name";

/// A form of parts with names (and what else the head has) and contents.
fn form(parts: &[(&str, &str)]) -> String {
    let part = |(name, content): &(&str, &str)| format!("--XX\r\n{DISPOSITION}={name}\r\n\r\n{content}\r\n");
    parts.iter().map(part).collect::<String>() + "--XX--\r\n"
}

/// What a finder says, after it has said the same for every way of cutting the body in two, and in single bytes.
fn found(body: &str) -> Result<Option<String>, MultipartFault> {
    let in_chunks = |chunks: &[&[u8]]| {
        let mut finder = ModelFinder::new("XX");
        chunks.iter().try_for_each(|chunk| finder.feed(chunk))?;
        finder.finish()
    };
    let body = body.as_bytes();
    let whole = in_chunks(&[body]);
    for cut in 0..body.len() {
        assert_eq!(in_chunks(&[&body[..cut], &body[cut..]]), whole, "cut at {cut}");
    }
    assert_eq!(in_chunks(&body.chunks(1).collect::<Vec<_>>()), whole);
    whole
}

fn model(name: &str) -> Result<Option<String>, MultipartFault> {
    Ok(Some(name.to_owned()))
}

#[test]
fn the_model_is_found_wherever_it_stands() {
    assert_eq!(found(&form(&[("\"model\"", "whisper-1")])), model("whisper-1"));
    assert_eq!(found(&form(&[("a", ""), ("model", "m"), ("b", "\r\n\r\n")])), model("m"));
    let file = ("file; filename=\"a.wav\"\r\nContent-Type: audio/wav", "RIFF\0\r\n--X\r\r\n--XY\n-\r\n\r\n-");
    assert_eq!(found(&form(&[file, ("model", "m")])), model("m"));
}

#[test]
fn the_field_of_a_file_that_looks_like_a_form_is_not_the_model() {
    let nested = "--YY\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nx\r\n--YY--";
    assert_eq!(found(&form(&[("file", nested)])), Ok(None));
}

#[test]
fn preamble_padding_and_epilogue_are_stepped_over() {
    let body = format!("hello\r\n{}--XX\r\nmore", form(&[("model", "m")]).replace("--XX\r\n", "--XX \t\r\n"));
    assert_eq!(found(&body), model("m"));
    assert_eq!(found("--XX--"), Ok(None));
}

#[test]
fn a_model_is_there_as_soon_as_its_part_is_over() {
    let body = form(&[("model", "m"), ("file", "x")]);
    let end = body.find("\r\n--XX\r\n").unwrap() + 6;
    let mut finder = ModelFinder::new("XX");
    finder.feed(&body.as_bytes()[..end - 1]).unwrap();
    assert_eq!(finder.model(), None);
    finder.feed(&body.as_bytes()[end - 1..end]).unwrap();
    assert_eq!(finder.model(), Some("m"));
}

#[test]
fn two_models_are_one_too_many() {
    assert_eq!(found(&form(&[("model", "m"), ("model", "m")])), Err(MultipartFault::Duplicate));
}

#[test]
fn what_another_reader_might_take_apart_otherwise_is_refused() {
    let good = form(&[("a", "1"), ("model", "m")]);
    let malformed = |body: &str| assert!(matches!(found(body), Err(MultipartFault::Malformed(_))), "{body}");
    malformed("");
    malformed(&good[..good.len() - 4]);
    malformed(&good.replace("\r\n", "\n"));
    malformed(&good.replace("1\r\n--XX", "1\n--XX"));
    malformed(&good.replace("1\r\n--XX", "1\r\n\n--XX"));
    malformed(&good.replace("\r\n1\r\n", "\r\n"));
    malformed(&good.replace("\r\n\r\n1\r\n", "\r\n"));
    malformed(&good.replace("--XX\r\n", "--XXY\r\n"));
    malformed(&good.replace("=a", "=a\rb"));
    malformed(&form(&[("model", "")]));
    malformed(&form(&[("a", "1"), ("Model", "m")]));
}

#[test]
fn what_is_kept_is_bounded() {
    assert_eq!(found(&form(&[("model", &"m".repeat(MAX_MODEL))])), model(&"m".repeat(MAX_MODEL)));
    assert!(found(&form(&[("model", &"m".repeat(MAX_MODEL + 1))])).is_err());
    let mut finder = ModelFinder::new("XX");
    finder.feed(b"--XX\r\nX: ").unwrap();
    assert!(finder.feed(&[b'x'; MAX_HEAD]).is_err());
    assert!(finder.feed(b"\r\n").is_err());
}
