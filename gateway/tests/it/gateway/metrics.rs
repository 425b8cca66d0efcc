//! A scrape of `/metrics`, read just enough to add up samples by name and label.

/// The samples of one scrape.
pub(crate) struct Metrics {
    text: String,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        Self { text: text.to_owned() }
    }

    /// The sum of all samples of this name whose labels include all of `labels`; 0 where there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name).filter(|(own, _)| has_all(own, labels)).map(|(_, value)| value).sum()
    }

    /// Whether a sample of this name is there at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.samples(name).next().is_some()
    }

    /// The label sets and values under one name.
    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.trim().parse().ok()?))
        })
    }

    /// The lines that begin with this name, for a message.
    pub(crate) fn with(&self, name: &str) -> String {
        self.text.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

fn has_all(own: &str, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(key, value)| {
        let wanted = format!("{key}=\"{value}\"");
        own.split(',').any(|label| label == wanted)
    })
}
