//! "Did you mean": the known name nearest to one that is not known.

/// `did you mean `NAME`?`, if one of the known names is near enough to be meant.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = plain(name);
    let (similarity, near) = known
        .iter()
        .map(|known| (strsim::jaro_winkler(&wanted, &plain(known)), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (similarity > 0.8).then(|| format!("did you mean `{near}`?"))
}
