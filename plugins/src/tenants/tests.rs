use super::*;
use crate::filters::limits::OwnLimits;
use serde_json::{Value, json};

fn tenants(value: Value) -> Tenants {
    let (tenants, faults) = Tenants::read(value, &OwnLimits::default());
    assert_eq!(faults, []);
    tenants
}

fn two_orgs() -> Tenants {
    tenants(json!({
        "acme": {
            "models": ["llama*", "qwen-2"],
            "priority": 6,
            "metadata": { "contract": "gold", "region": "eu" },
            "expires": "2027-06-01",
            "teams": {
                "research": {
                    "models": ["llama-3*", "qwen*"],
                    "metadata": { "region": "us" },
                    "users": { "ann": { "priority": 2 }, "bob": { "disabled": true } },
                    "services": ["nightly"],
                },
                "sales": { "users": { "*": { "priority": 1 } } },
            },
            "users": ["carol"],
        },
        "globex": { "users": ["dora", "carol"], "teams": ["research"] },
    }))
}

fn names(written: &str) -> Names {
    let mut names = Names::default();
    for pair in written.split_whitespace() {
        let (level, name) = pair.split_once('=').unwrap();
        let name = Some(Arc::from(name));
        match level {
            "org" => names.org = name,
            "team" => names.team = name,
            "user" => names.user = name,
            _ => names.service = name,
        }
    }
    names
}

fn key(settings: About) -> Option<Tenant> {
    Some(settings.tenant(Level::Key, "k1", &OwnLimits::default(), "", &mut Vec::new()))
}

fn told(caller: &Caller) -> String {
    let parts = [("org", &caller.org), ("team", &caller.team), ("user", &caller.user), ("service", &caller.service)];
    let parts = parts.into_iter().filter_map(|(level, name)| Some(format!("{level}={}", name.as_ref()?)));
    parts.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_name_that_is_there_once_says_all_that_is_above_it() {
    let tenants = two_orgs();
    for (asked, meant) in [
        ("user=ann", "org=acme team=research user=ann"),
        ("service=nightly", "org=acme team=research service=nightly"),
        ("user=dora", "org=globex user=dora"),
        ("org=acme user=carol", "org=acme user=carol"),
        ("org=globex team=research", "org=globex team=research"),
        ("team=sales user=zoe", "org=acme team=sales user=zoe"),
        ("org=globex", "org=globex"),
    ] {
        assert_eq!(told(&caller(Some(&tenants), &names(asked), None).unwrap()), meant, "{asked}");
    }
}

#[test]
fn names_that_say_nobody_or_two_are_refused_with_what_there_is() {
    let tenants = two_orgs();
    for (asked, level, message, help) in [
        ("org=acmee", Some(Level::Org), "no organisation `acmee`", "acme, globex"),
        ("team=resaerch", Some(Level::Team), "no team `resaerch`", "research, sales"),
        ("org=globex team=sales", Some(Level::Team), "in the organisation `globex`", "research"),
        ("user=zoe", Some(Level::User), "no user `zoe`", "ann, bob, carol, dora"),
        ("org=acme team=research user=carol", Some(Level::User), "in the team `research`", "ann, bob"),
        ("user=carol", Some(Level::User), "more than one user `carol`", "`org: acme` or `org: globex`"),
        ("team=research", Some(Level::Team), "more than one team", "org:"),
        ("user=ann service=nightly", Some(Level::Service), "not to both", ""),
        ("", None, "no owner", ""),
    ] {
        let fault = caller(Some(&tenants), &names(asked), None).unwrap_err();
        assert_eq!(fault.level, level, "{asked}");
        assert!(fault.message.contains(message), "{asked}: {}", fault.message);
        assert!(fault.help.unwrap_or_default().contains(help), "{asked}");
        assert_eq!(
            fault.level.is_some(),
            UnknownTenant { help: None, ..caller(Some(&tenants), &names(asked), None).unwrap_err() }
                .setting()
                .is_some()
        );
    }
}

#[test]
fn the_strictest_of_all_above_applies() {
    let tenants = two_orgs();
    let own = About { models: Some(vec!["llama-3.1*".into(), "qwen-2".into(), "other".into()]), ..About::default() };
    let ann = caller(Some(&tenants), &names("user=ann"), key(own)).unwrap();
    assert_eq!(ann.models.as_deref(), Some(&["llama-3.1*".into(), "qwen-2".into()][..]));
    assert!(ann.may_use("llama-3.1-8b") && ann.may_use("qwen-2") && !ann.may_use("llama-3") && !ann.may_use("other"));
    assert_eq!(ann.priority.get(), 2);
    let metadata: Vec<_> = ann.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(metadata, [("contract", "gold"), ("region", "us")]);
    let levels: Vec<_> = ann.tenants.iter().map(|tenant| tenant.level).collect();
    assert_eq!(levels, [Level::Org, Level::Team, Level::User, Level::Key]);
    let urgent = About { priority: Priority::new(9), ..About::default() };
    assert_eq!(caller(Some(&tenants), &names("org=acme user=carol"), key(urgent)).unwrap().priority.get(), 6);
}

#[test]
fn without_the_section_names_are_labels() {
    let caller = caller(None, &names("org=any team=other user=who"), key(About::default())).unwrap();
    assert_eq!((told(&caller), caller.priority.get()), ("org=any team=other user=who".to_owned(), 5));
    assert!(caller.may_use("anything") && standing::refusal(&caller).is_none());
}

#[test]
fn what_is_disabled_or_over_ends_for_all_below() {
    let past = Some(When::from_unix(1_000_000_000));
    let (disabled, over) = (About { disabled: true, ..About::default() }, About { expires: past, ..About::default() });
    let of = |level: Level, about: &About| {
        let tenants = vec![Arc::new(about.clone().tenant(level, "x", &OwnLimits::default(), "", &mut Vec::new()))];
        standing::refusal(&Caller { tenants: tenants.into(), ..Caller::default() }).unwrap()
    };
    for (level, about, status, code) in [
        (Level::Org, &disabled, 403, "tenant_disabled"),
        (Level::User, &over, 403, "tenant_expired"),
        (Level::Key, &disabled, 401, "api_key_disabled"),
        (Level::Key, &over, 401, "api_key_expired"),
    ] {
        let refusal = of(level, about);
        assert_eq!((refusal.status.as_u16(), refusal.code), (status, Some(code)));
    }
    let tenants = two_orgs();
    let bob = caller(Some(&tenants), &names("user=bob"), None).unwrap();
    assert!(standing::refusal(&bob).unwrap().message.contains("user 'bob' is disabled"));
    assert!(standing::refusal(&caller(Some(&tenants), &names("user=ann"), None).unwrap()).is_none());
}

#[test]
fn all_faults_of_the_section_come_at_once_and_what_is_left_still_answers() {
    let (tenants, faults) = Tenants::read(
        json!({
            "acme": {
                "modles": [],
                "models": ["llama*"],
                "priority": 4,
                "teams": { "a.b": { "models": ["gpt-4"], "users": { "ann": { "priority": 7, "expires": "soon" } } } },
                "users": { "ann": null, "": null, "tom": { "models": [3] } },
            },
            "globex": { "priority": 12 },
        }),
        &OwnLimits::default(),
    );
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    for path in [
        "acme.modles",
        "acme.teams.\"a.b\".users.ann.expires",
        "acme.users.tom.models[0]",
        "globex.priority",
        "acme.teams.\"a.b\".models[0]",
        "acme.teams.\"a.b\".users.ann",
        "acme.teams.\"a.b\".users.ann.priority",
        "acme.users.\"\"",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:#?}");
    }
    assert_eq!(faults.len(), 8, "{faults:#?}");
    assert_eq!(told(&caller(Some(&tenants), &names("user=tom"), None).unwrap()), "org=acme user=tom");
}

mod meeting {
    use super::super::{Caller, meet};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn patterns() -> impl Strategy<Value = Vec<Arc<str>>> {
        prop::collection::vec("[ab]{0,3}\\*?".prop_map(Arc::from), 0..4)
    }

    proptest! {
        #[test]
        fn what_two_allow_together_is_what_both_allow(one in patterns(), other in patterns(), name in "[ab]{0,4}") {
            let may = |models: Option<Vec<Arc<str>>>| Caller { models, ..Caller::default() }.may_use(&name);
            let both = may(meet(Some(one.clone()), &other));
            prop_assert_eq!(both, may(Some(one)) && may(Some(other)));
        }
    }
}
