use tidegate_plugins::multipart::{ModelFinder, MultipartFault, boundary_of};

const BOUNDARY: &str = "XX";

/// However a form is cut, the same is found; and what is found is there for a plain reader too.
pub(crate) fn multipart(body: &[u8]) {
    let whole = found(&[body]);
    for cut in (0..body.len()).step_by(1 + body.len() / 256) {
        assert_eq!(found(&[&body[..cut], &body[cut..]]), whole, "cut at {cut}");
    }
    assert_eq!(found(&body.chunks(1).collect::<Vec<_>>()), whole);
    if let Ok(model) = whole {
        let parts = parts(body);
        let is_model = |(head, _): &&(String, _)| head.contains("\r\nContent-Disposition: form-data; name=\"model\"");
        let plain = parts.iter().find(is_model).map(|(_, content)| content.as_slice());
        // The plain reader knows one spelling only.
        assert!(plain.is_none() || plain == model.as_deref().map(str::as_bytes));
        let is_there =
            |model: &str| parts.iter().any(|(head, content)| head.contains("model") && content == model.as_bytes());
        assert!(model.as_deref().is_none_or(is_there));
    }
    if let Some(boundary) = std::str::from_utf8(body).ok().and_then(boundary_of) {
        assert!((1..=70).contains(&boundary.len()) && boundary.is_ascii());
    }
}

fn found(chunks: &[&[u8]]) -> Result<Option<String>, MultipartFault> {
    let mut finder = ModelFinder::new(BOUNDARY);
    chunks.iter().try_for_each(|chunk| finder.feed(chunk))?;
    let place = finder.model_range();
    let model = finder.finish()?;
    let named = place.map(|place| chunks.concat()[place].to_vec());
    assert_eq!(model.as_deref().map(str::as_bytes), named.as_deref());
    Ok(model)
}

/// The parts of the form: their heads, and what they contain.
fn parts(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let body = [b"\r\n", body].concat();
    let parts = split(&body, format!("\r\n--{BOUNDARY}").as_bytes());
    let parts = parts.into_iter().skip(1).take_while(|part| !part.starts_with(b"--"));
    let cut = |part: &[u8]| {
        // A delimiter right behind a delimiter is a part without anything.
        let Some(line) = part.iter().position(|byte| *byte == b'\r') else { return Default::default() };
        let pieces = split(&part[line..], b"\r\n\r\n");
        let content = pieces[1..].join(&b"\r\n\r\n"[..]);
        (String::from_utf8_lossy(pieces[0]).into_owned(), content)
    };
    parts.map(cut).collect()
}

fn split<'a>(mut text: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = text.windows(separator.len()).position(|window| window == separator) {
        parts.push(&text[..at]);
        text = &text[at + separator.len()..];
    }
    parts.push(text);
    parts
}
