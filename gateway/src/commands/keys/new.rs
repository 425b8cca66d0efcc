//! `tidegate keys new`: a key, kept in the store if there is one; else with the entry for the file that lets it in.

use std::time::Duration;

use clap::Args;
use tidegate::storage::keys as stored;
use tidegate_plugins::Priority;
use tidegate_plugins::keys::{self, Key};
use tidegate_plugins::when::When;

use super::super::Failure;
use super::super::say::{Paint, complain, say};
use super::super::starter::scalar;
use super::place::{Place, Rules};

/// Make a key and print it once.
///
/// With a store (--config with `storage`, or --store) it is kept there and works at once. Without, what is printed on
/// standard error is the entry for the configuration file that lets it in.
#[derive(Args)]
pub(super) struct New {
    #[command(flatten)]
    place: Place,
    /// What the key is called in logs [default: my-app in a file, one that nobody has in a store]
    #[arg(long)]
    id: Option<String>,
    /// Who uses it
    #[arg(long)]
    user: Option<String>,
    /// The service that uses it
    #[arg(long, conflicts_with = "user")]
    service: Option<String>,
    /// Their team
    #[arg(long)]
    team: Option<String>,
    /// Their organisation
    #[arg(long)]
    org: Option<String>,
    /// A model it may ask for, * at the end as a wildcard; may be given more than once [default: all]
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// Who is served first when not all can be: 0, the last, to 9, the first
    #[arg(long, value_parser = priority)]
    priority: Option<Priority>,
    /// When it ends: 2027-01-31, or a moment such as 2027-01-31T18:00:00Z
    #[arg(long, value_parser = When::parse, value_name = "WHEN")]
    expires: Option<When>,
    /// How long it lives: 90d
    #[arg(long, value_parser = tidegate_config::parse_duration, conflicts_with = "expires", value_name = "TIME")]
    expires_in: Option<Duration>,
    /// What it is known by elsewhere; may be given more than once
    #[arg(long, value_parser = pair, value_name = "NAME=VALUE")]
    metadata: Vec<(String, String)>,
}

fn priority(text: &str) -> Result<Priority, String> {
    let priority = text.parse().ok().and_then(Priority::new);
    priority.ok_or_else(|| "a number from 0 to 9".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl New {
    pub(super) fn run(self) -> Result<(), Failure> {
        let rules = self.place.rules()?;
        let key = self.key(&rules)?;
        rules.check(&key)?;
        let (new, paint) = (rules.generate()?, Paint::on_stderr());
        if rules.store.is_none() {
            say(new.secret());
            let what = "This is the only time it is shown. What lets it in, under api_key's keys:";
            complain(&format!("\n{}", paint.dim(what)));
            complain(&entry(&Key { hash: new.hash().to_string(), ..key }));
            return Ok(());
        }
        if rules.views.as_ref().is_some_and(|views| views.has_key(&key.id)) {
            return Err(Failure::bad_input(format!("{}: a key in the file has this id; --id takes another", key.id)));
        }
        let refused = "there is a key of this id already; --id takes another";
        let sealed = new.sealed();
        rules.change(&key.id, refused, |transaction| stored::insert(transaction, &key, &sealed, When::now()))?;
        say(new.secret());
        complain(&format!("\n{}", paint.dim("This is the only time it is shown. It is kept as:")));
        complain(&key.id);
        Ok(())
    }

    fn key(&self, rules: &Rules) -> Result<Key, Failure> {
        let id = match (&self.id, &rules.store) {
            (Some(id), _) => id.clone(),
            (None, None) => "my-app".to_owned(),
            (None, Some(_)) => keys::new_id().map_err(|error| Failure::could_not(error.to_string()))?,
        };
        Ok(Key {
            id,
            user: self.user.clone(),
            service: self.service.clone(),
            team: self.team.clone(),
            org: self.org.clone(),
            models: (!self.models.is_empty()).then(|| self.models.clone()),
            priority: self.priority,
            metadata: self.metadata.iter().cloned().collect(),
            expires: self.expires.or_else(|| self.expires_in.map(When::from_now)),
            ..Key::default()
        })
    }
}

/// The entry for `keys` of the api_key filter: what a list in YAML says of this key.
fn entry(key: &Key) -> String {
    let settings = serde_json::to_value(key).unwrap_or_default();
    let written = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), scalar);
    let first = [("id", scalar(&key.id)), ("hash", scalar(&key.hash))].map(|(name, text)| (name.to_owned(), text));
    let others = settings.as_object().into_iter().flatten().filter(|(name, _)| !matches!(&***name, "id" | "hash"));
    let all = first.into_iter().chain(others.map(|(name, value)| (name.clone(), written(value))));
    let lines: Vec<_> = all.map(|(name, text)| format!("  {name}: {text}")).collect();
    lines.join("\n").replacen("  ", "- ", 1)
}
