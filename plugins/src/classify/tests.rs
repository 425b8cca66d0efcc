use super::*;
use crate::ask::Answer;
use crate::caller::Caller;
use crate::services::Shared;
use crate::testing;
use async_trait::async_trait;
use std::sync::Mutex;

/// Answers what it is told to, and remembers what it was asked.
#[derive(Default)]
struct Model {
    says: Mutex<Option<&'static str>>,
    asked: Mutex<Vec<Value>>,
}

#[async_trait]
impl Ask for Model {
    async fn ask(&self, question: Question) -> Result<Answer, String> {
        self.asked.lock().unwrap().push(serde_json::from_slice(&question.body).unwrap());
        let said = self.says.lock().unwrap().ok_or("it is away")?;
        let body = json!({ "choices": [{ "message": { "content": said } }] }).to_string().into();
        Ok(Answer { body, usage: None })
    }
}

fn read(settings: Value, model: &Arc<Model>) -> (Classifiers, Vec<String>) {
    let shared = Shared { asks: model.clone(), ..Shared::default() };
    let (classifiers, faults) = Classifiers::read(json!({ "task": settings }), &["small".into()], &shared);
    (classifiers, faults.into_iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect())
}

fn exchange(text: &str, org: Option<&str>) -> Exchange {
    let body = json!({ "model": "auto", "messages": [{ "role": "user", "content": text }] });
    let mut exchange = testing::exchange(&body.to_string());
    exchange.identify(Arc::new(Caller { org: org.map(Into::into), ..Caller::default() }));
    exchange
}

fn settings() -> Value {
    json!({ "model": "small", "labels": ["easy", "hard", "hard_code"], "otherwise": "hard" })
}

#[tokio::test]
async fn the_class_is_what_the_model_says_however_it_says_it() {
    let model = Arc::new(Model::default());
    let with = json!({ "keep": 0, "parameters": { "max_tokens": 4, "x": [1] } });
    let mut settings = settings();
    settings.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    let (classifiers, faults) = read(settings, &model);
    assert_eq!(faults, Vec::<String>::new());
    let classifier = classifiers.get("task").unwrap();
    for (said, class) in [
        ("easy", "easy"),
        ("  Easy.\n", "easy"),
        ("**hard_code**", "hard_code"),
        ("The class is \"easy\", not hard", "easy"),
        ("uneasy hardly", "hard"),
        ("", "hard"),
    ] {
        *model.says.lock().unwrap() = Some(said);
        assert_eq!(&*classifier.classify(&exchange("what?", None)).await, class, "{said}");
    }
    *model.says.lock().unwrap() = None;
    assert_eq!(&*classifier.classify(&exchange("what?", None)).await, "hard");
    let asked = model.asked.lock().unwrap();
    assert_eq!((asked.len(), &asked[0]["model"], &asked[0]["temperature"]), (7, &json!("small"), &json!(0)));
    assert_eq!((&asked[0]["max_tokens"], &asked[0]["x"]), (&json!(4), &json!([1])));
    assert_eq!(asked[0]["messages"][1], json!({ "role": "user", "content": "what?" }));
    assert!(asked[0]["messages"][0]["content"].as_str().unwrap().contains("easy, hard, hard_code"));
}

#[tokio::test]
async fn what_was_said_is_kept_for_its_tenant_and_a_failure_is_not() {
    let model = Arc::new(Model::default());
    let (classifiers, _) = read(settings(), &model);
    let classifier = classifiers.get("task").unwrap();
    let asked = || model.asked.lock().unwrap().len();
    classifier.classify(&exchange("a", Some("acme"))).await;
    *model.says.lock().unwrap() = Some("easy");
    for (text, org, so_far) in
        [("a", "acme", 2), ("a", "acme", 2), ("a", "globex", 3), ("a", "globex", 3), ("b", "acme", 4), ("a", "acme", 4)]
    {
        assert_eq!(&*classifier.classify(&exchange(text, Some(org))).await, "easy");
        assert_eq!(asked(), so_far, "{text} {org}");
    }
    assert_eq!(&*classifier.classify(&exchange("  ", Some("acme"))).await, "hard", "there is nothing to ask about");
    assert_eq!(asked(), 4);
}

#[test]
fn what_cannot_be_meant_is_told_with_its_place() {
    let (_, faults) = read(
        json!({
            "model": "tiny", "labels": ["a", "A"], "otherwise": "b", "bytes": 0, "timeout": "0", "keep_for": "0",
            "parameters": { "stream": true },
        }),
        &Arc::default(),
    );
    let paths: Vec<_> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
    let expected = ["model", "labels", "otherwise", "bytes", "timeout", "keep_for", "parameters"];
    assert_eq!(paths, expected.map(|setting| format!("task.{setting}")), "{faults:?}");
    let (_, faults) = read(json!({ "model": "small", "labels": ["a"] }), &Arc::default());
    assert!(faults[0].contains("otherwise"), "{faults:?}");
}
