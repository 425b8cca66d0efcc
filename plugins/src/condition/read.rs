//! From the words of a condition to what it asks, types checked.

use super::features::{self, Feature};
use super::lex::{Kind, Token, tokens};
use super::{ConditionError, Node, Number, Order, Terms, Text};

/// Deepest nesting of brackets: as deep as reading may call itself.
const DEEPEST: usize = 32;

pub(super) fn read(text: &str, terms: Terms<'_>) -> Result<Node> {
    let mut reader = Reader { tokens: tokens(text)?, next: 0, terms, depth: 0 };
    let node = reader.condition()?;
    match reader.peek().kind {
        Kind::End => Ok(node),
        _ => Err(reader.fault("expected and, or, or the end")),
    }
}

struct Reader<'a> {
    tokens: Vec<Token>,
    next: usize,
    terms: Terms<'a>,
    depth: usize,
}

type Result<T> = std::result::Result<T, ConditionError>;

impl Reader<'_> {
    fn peek(&self) -> &Token {
        // The last one, the end, is never taken.
        &self.tokens[self.next]
    }

    fn fault(&self, message: impl Into<String>) -> ConditionError {
        ConditionError { at: self.peek().at, message: message.into() }
    }

    /// Takes the next word if it is this one.
    fn word(&mut self, word: &str) -> bool {
        let found = matches!(&self.peek().kind, Kind::Word(known) if known == word);
        self.next += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek().kind, Kind::Sign(known) if known == sign);
        self.next += usize::from(found);
        found
    }

    fn condition(&mut self) -> Result<Node> {
        let mut nodes = vec![self.all()?];
        while self.word("or") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self) -> Result<Node> {
        let mut nodes = vec![self.one()?];
        while self.word("and") {
            nodes.push(self.one()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self) -> Result<Node> {
        if self.depth == DEEPEST {
            return Err(self.fault(format!("nested deeper than {DEEPEST} levels")));
        }
        self.depth += 1;
        let node = if self.word("not") {
            Node::Not(Box::new(self.one()?))
        } else if self.sign("(") {
            let node = self.condition()?;
            if !self.sign(")") {
                return Err(self.fault("expected )"));
            }
            node
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node> {
        let Kind::Word(name) = self.peek().kind.clone() else {
            return Err(self.fault("expected what to look at, such as has_tools, prompt_tokens or org"));
        };
        match self.feature(&name)? {
            Feature::Flag(flag) => Ok(Node::Flag(flag)),
            Feature::Switch => self.switch(),
            Feature::Class => self.class(),
            Feature::Number(number) => self.number(&name, number),
            Feature::Text(text) => self.text(&name, text),
        }
    }

    fn feature(&mut self, name: &str) -> Result<Feature> {
        let Some(feature) = features::named(name) else {
            return Err(self.fault(format!("there is no `{name}` to look at: there is {}", features::names())));
        };
        self.next += 1;
        if name != features::HEADER {
            return Ok(feature);
        }
        let at = self.next + 1;
        let header = self.argument("the header's name: header(\"x-tier\")")?;
        let fault = |message: String| Err(ConditionError { at: self.tokens[at].at, message });
        let Ok(name) = http::HeaderName::from_bytes(header.as_bytes()) else {
            return fault(format!("{header:?} is no name of a header"));
        };
        if name == http::header::AUTHORIZATION || name == "x-api-key" {
            return fault("keys are not looked at; ask for `key`, `user` or `org`".to_owned());
        }
        Ok(Feature::Text(Text::Header(name)))
    }

    /// What stands in brackets behind a word.
    fn argument(&mut self, expected: &str) -> Result<String> {
        let argument = match (self.sign("("), self.peek().kind.clone()) {
            (true, Kind::Text(argument)) => argument,
            _ => return Err(self.fault(format!("expected {expected}"))),
        };
        self.next += 1;
        if self.sign(")") { Ok(argument) } else { Err(self.fault("expected )")) }
    }

    /// A flag that somebody among the tenants has: any other is a slip.
    fn switch(&mut self) -> Result<Node> {
        let at = self.peek().at;
        let name = self.argument("the flag's name: flag(\"beta\")")?;
        let fault = |message: String| Err(ConditionError { at: at + 1, message });
        let Some(tenants) = self.terms.tenants else {
            return fault("flags are laid down in `tenants`, and the file has no such section".to_owned());
        };
        let known = tenants.flags();
        match known.contains(&*name) {
            true => Ok(Node::Switch(name)),
            false if known.is_empty() => fault(format!("nobody in `tenants` has a flag `{name}`, or any other")),
            false => {
                let known: Vec<_> = known.into_iter().collect();
                fault(format!("nobody in `tenants` has a flag `{name}`: there is {}", known.join(", ")))
            }
        }
    }

    /// A classifier of the file, and classes that it gives.
    fn class(&mut self) -> Result<Node> {
        let at = self.next + 1;
        let name = self.argument("the classifier's name: class(\"task\")")?;
        let Some(classifier) = self.terms.classifiers.get(&name) else {
            let known: Vec<_> = self.terms.classifiers.names().collect();
            let known =
                if known.is_empty() { "there is none".to_owned() } else { format!("there is {}", known.join(", ")) };
            let message = format!("`classifiers` has no `{name}`: {known}");
            return Err(ConditionError { at: self.tokens[at].at, message });
        };
        let classifier = classifier.clone();
        let from = self.next;
        let negated = self.sign("!=");
        let (classes, negated) = if negated || self.sign("==") {
            (vec![self.string()?], negated)
        } else {
            let negated = self.word("not");
            if !self.word("in") {
                let message = format!("ask class(\"{name}\") == \"...\", or class(\"{name}\") in [...]");
                return Err(self.fault(message));
            }
            (self.list()?, negated)
        };
        let unknown = classes.iter().find(|class| !classifier.labels.iter().any(|label| **label == ***class));
        if let Some(unknown) = unknown {
            // Where it stands, if it is not in a list of the file.
            let is_it = |token: &&Token| matches!(&token.kind, Kind::Text(text) if text == unknown);
            let at = self.tokens[from..self.next].iter().find(is_it).map_or(self.tokens[from].at, |token| token.at);
            let message = format!("`{name}` gives no class `{unknown}`: there is {}", classifier.labels.join(", "));
            return Err(ConditionError { at, message });
        }
        let node = Node::Class(classifier, classes);
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn number(&mut self, name: &str, number: Number) -> Result<Node> {
        let signs = [
            ("==", Order::Equal, false),
            ("!=", Order::Equal, true),
            ("<=", Order::LessOrEqual, false),
            (">=", Order::GreaterOrEqual, false),
            ("<", Order::Less, false),
            (">", Order::Greater, false),
        ];
        let Some((_, order, negated)) = signs.into_iter().find(|(sign, ..)| self.sign(sign)) else {
            return Err(self.fault(format!("`{name}` is a number: compare it, as in {name} > 1000")));
        };
        let Kind::Number(limit) = self.peek().kind else {
            return Err(self.fault("expected a number: 500, 8k or 1M"));
        };
        self.next += 1;
        let node = Node::Compare(number, order, limit);
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn text(&mut self, name: &str, text: Text) -> Result<Node> {
        let negated = self.sign("!=");
        if negated || self.sign("==") {
            let node = Node::Is(text, vec![self.string()?]);
            return Ok(if negated { Node::Not(Box::new(node)) } else { node });
        }
        let negated = self.word("not");
        let node = if self.word("in") {
            Node::Is(text, self.list()?)
        } else if self.word("like") {
            Node::Like(text, self.string()?)
        } else {
            return Err(
                self.fault(format!("`{name}` is a text: ask {name} == \"...\", {name} in [...] or {name} like \"a*\""))
            );
        };
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn string(&mut self) -> Result<String> {
        let Kind::Text(text) = self.peek().kind.clone() else {
            return Err(self.fault("expected a text in quotes"));
        };
        self.next += 1;
        Ok(text)
    }

    fn list(&mut self) -> Result<Vec<String>> {
        if let Kind::Word(name) = &self.peek().kind {
            let Some(list) = self.terms.lists.get(name) else {
                return Err(self.fault(format!("there is no list `{name}` under `lists`")));
            };
            self.next += 1;
            return Ok(list.clone());
        }
        if !self.sign("[") {
            return Err(self.fault("expected a list, [\"a\", \"b\"], or the name of one under `lists`"));
        }
        let mut list = vec![self.string()?];
        while self.sign(",") {
            list.push(self.string()?);
        }
        if !self.sign("]") {
            return Err(self.fault("expected , or ]"));
        }
        Ok(list)
    }
}
