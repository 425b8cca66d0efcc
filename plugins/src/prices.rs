//! What requests cost: a price for each model, in whole numbers.
//!
//! Money is counted in thousand millionths ([`NANOS`]) of whatever the currency is. A price is for a million tokens, so
//! that the cost of a request is one sum and one division, rounded up once: nothing is lost that adds up.

use crate::usage::Usage;
use std::collections::HashMap;
use std::sync::Arc;

/// In one of the currency.
pub const NANOS: u64 = 1_000_000_000;

const MILLION: u128 = 1_000_000;

/// What one model costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// A million tokens of prompts.
    pub prompt: u64,
    /// A million tokens of prompts that came from the backend's cache.
    pub cached_prompt: u64,
    /// A million tokens of answers.
    pub completion: u64,
    /// Each request.
    pub request: u64,
}

impl Price {
    /// What a request costs that used these tokens.
    #[must_use]
    pub fn of(&self, usage: &Usage) -> u64 {
        let prompt = usage.prompt.unwrap_or(0);
        // No more can have come from a cache than there was.
        let cached = usage.cached_prompt.unwrap_or(0).min(prompt);
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let millionths = part(prompt - cached, self.prompt)
            .saturating_add(part(cached, self.cached_prompt))
            .saturating_add(part(usage.completion.unwrap_or(0), self.completion));
        u64::try_from(millionths.div_ceil(MILLION)).unwrap_or(u64::MAX).saturating_add(self.request)
    }
}

/// The prices of a file.
#[derive(Debug, Clone)]
pub struct Prices {
    currency: Arc<str>,
    exact: HashMap<Box<str>, Price>,
    /// Longest first, without the `*`.
    prefixes: Vec<(Box<str>, Price)>,
}

impl Default for Prices {
    fn default() -> Self {
        Self::new("USD", [])
    }
}

impl Prices {
    /// Prices by model, `*` at the end of a name as a wildcard.
    pub fn new<'a>(currency: &str, prices: impl IntoIterator<Item = (&'a str, Price)>) -> Self {
        let (mut exact, mut prefixes) = (HashMap::new(), Vec::new());
        for (name, price) in prices {
            match name.strip_suffix('*') {
                Some(prefix) => prefixes.push((Box::from(prefix), price)),
                None => drop(exact.insert(Box::from(name), price)),
            }
        }
        prefixes.sort_by_key(|(prefix, _): &(Box<str>, _)| std::cmp::Reverse(prefix.len()));
        Self { currency: currency.into(), exact, prefixes }
    }

    /// What the money is called.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// The price of a model: by its exact name, else by the longest beginning.
    pub fn of(&self, model: &str) -> Option<&Price> {
        let by_prefix =
            || self.prefixes.iter().find(|(prefix, _)| model.starts_with(&**prefix)).map(|(_, price)| price);
        self.exact.get(model).or_else(by_prefix)
    }

    /// Whether every model that `pattern` stands for (a name, or a beginning with `*` behind it) has a price.
    pub fn covers(&self, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(beginning) => self.prefixes.iter().any(|(prefix, _)| beginning.starts_with(&**prefix)),
            None => self.of(pattern).is_some(),
        }
    }

    /// An amount for people: `12.50 USD`, `0.000075 USD`.
    pub fn tell(&self, nanos: u64) -> String {
        let text = format!("{}.{:09}", nanos / NANOS, nanos % NANOS);
        let shortest = text.trim_end_matches('0').len().max(text.len() - 7);
        format!("{} {}", &text[..shortest], self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRICE: Price =
        Price { prompt: 2_500_000_000, cached_prompt: 1_250_000_000, completion: 10_000_000_000, request: 1_000_000 };

    fn usage(prompt: u64, cached: u64, completion: u64) -> Usage {
        let usage = Usage { prompt: Some(prompt), completion: Some(completion), ..Usage::default() };
        Usage { cached_prompt: Some(cached), ..usage }
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        assert_eq!(PRICE.of(&usage(1_000_000, 0, 0)), 2_501_000_000);
        assert_eq!(PRICE.of(&usage(1000, 400, 50)), 1_500_000 + 500_000 + 500_000 + 1_000_000);
        assert_eq!(PRICE.of(&usage(10, 1000, 0)), PRICE.of(&usage(10, 10, 0)), "no more cached than there was");
        assert_eq!(PRICE.of(&Usage::default()), 1_000_000);
        let dear = Price { prompt: u64::MAX, cached_prompt: u64::MAX, completion: u64::MAX, request: u64::MAX };
        assert_eq!(dear.of(&usage(u64::MAX, 1, u64::MAX)), u64::MAX);
    }

    #[test]
    fn a_model_is_found_by_its_name_or_the_longest_beginning() {
        let price = |request| Price { request, ..Price::default() };
        let prices = Prices::new("EUR", [("gpt-*", price(1)), ("gpt-4*", price(2)), ("gpt-4o", price(3))]);
        let of = |model| prices.of(model).map(|price| price.request);
        assert_eq!([of("gpt-4o"), of("gpt-4o-mini"), of("gpt-3"), of("llama")], [Some(3), Some(2), Some(1), None]);
        for (pattern, covered) in [("gpt-4o", true), ("gpt-5*", true), ("gpt*", false), ("*", false), ("llama", false)]
        {
            assert_eq!(prices.covers(pattern), covered, "{pattern}");
        }
    }

    #[test]
    fn amounts_are_told_with_as_many_digits_as_they_need() {
        let prices = Prices::default();
        for (nanos, text) in
            [(12_500_000_000, "12.50 USD"), (0, "0.00 USD"), (75_000, "0.000075 USD"), (1, "0.000000001 USD")]
        {
            assert_eq!(prices.tell(nanos), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_asked_in_parts_never_costs_less_than_the_whole(a in 0..1_000_000_u64, b in 0..1_000_000_u64, price in 0..1_000_000_000_u64) {
            let price = Price { prompt: price, ..Price::default() };
            let (whole, parts) = (price.of(&usage(a + b, 0, 0)), price.of(&usage(a, 0, 0)) + price.of(&usage(b, 0, 0)));
            prop_assert!(whole <= parts && parts <= whole + 1);
        }
    }
}
