//! Who is next: an order without a clock. Within a class, organisations share by weight what their requests are
//! expected to cost (start-time fair queueing): each request gets a tag on a virtual time that advances as requests are
//! served; who asks for much has tags far ahead, and delays nobody but itself. Who has asked for less than its share may
//! be as far behind the others as a few requests cost, so that a few at once are no reason to wait.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A place in the order: a tag, then the order of arrival.
type Tag = (u64, u64);

/// As many as there are priorities.
const CLASSES: usize = 10;

/// Virtual time for one token at weight 1.
const SCALE: u64 = 1 << 16;

/// How many requests' worth an organisation may have left to others and still ask back.
const CREDIT: u64 = 16;

/// As many organisations are remembered in any case.
const FEW: usize = 64;

/// More are not remembered if they owe little.
const MANY: usize = 1024;

/// Turns of those before it after which a class gets one nevertheless.
const PATIENCE: u32 = 16;

/// A place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    class: usize,
    tag: Tag,
}

/// What one request is in line for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// From 9, which is served first, to 0.
    pub priority: u8,
    /// Whose it is: requests of one organisation share.
    pub tenant: Arc<str>,
    /// Its weight, at least 1.
    pub weight: u32,
    /// Tokens it is expected to cost.
    pub cost: u64,
}

impl Claim {
    /// On the virtual time.
    fn length(&self) -> u64 {
        self.cost.max(1).saturating_mul(SCALE) / u64::from(self.weight.max(1))
    }
}

/// All who wait for one pool, with what each has left there.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// The first is served first.
    classes: [Class<T>; CLASSES],
    arrived: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Class<T> {
    waiting: BTreeMap<Tag, T>,
    /// Where the last request of each organisation ends on the virtual time.
    ends: HashMap<Arc<str>, u64>,
    /// The furthest tag that was served.
    now: u64,
    /// Where the furthest request ends.
    furthest: u64,
    /// What a request costs in the mean, on the virtual time.
    usual: u64,
    /// When to look for organisations that need not be remembered.
    look_at: usize,
    /// Turns that others had while somebody waited here.
    passed_over: u32,
}

impl<T> Default for Class<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            ends: HashMap::new(),
            now: 0,
            furthest: 0,
            usual: 0,
            look_at: FEW,
            passed_over: 0,
        }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { classes: std::array::from_fn(|_| Class::default()), arrived: 0, waiting: 0 }
    }
}

impl<T> Line<T> {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Joins the line.
    pub(super) fn join(&mut self, claim: &Claim, who: T) -> Spot {
        self.arrived += 1;
        let index = (CLASSES - 1).saturating_sub(usize::from(claim.priority));
        let class = &mut self.classes[index];
        class.forget();
        let behind = class.now.saturating_sub(class.usual * CREDIT);
        // Who was not here begins where all are: only who was can have left something to others.
        let start = class.ends.get(&claim.tenant).map_or(class.now, |end| behind.max(*end));
        let length = claim.length();
        class.usual = class.usual - class.usual / 16 + length / 16;
        class.furthest = class.furthest.max(start.saturating_add(length));
        class.ends.insert(claim.tenant.clone(), start.saturating_add(length));
        let spot = Spot { class: index, tag: (start, self.arrived) };
        self.come_back(spot, who);
        spot
    }

    /// Takes back the place it had.
    pub(super) fn come_back(&mut self, spot: Spot, who: T) {
        if self.classes[spot.class].waiting.insert(spot.tag, who).is_none() {
            self.waiting += 1;
        }
    }

    /// Leaves the line.
    pub(super) fn leave(&mut self, spot: Spot) -> Option<T> {
        let who = self.classes[spot.class].waiting.remove(&spot.tag)?;
        self.waiting -= 1;
        Some(who)
    }

    /// Who would be served last; it is out of the line then.
    pub(super) fn last(&mut self) -> Option<(Spot, T)> {
        let (class, last) = self.classes.iter_mut().enumerate().rfind(|(_, class)| !class.waiting.is_empty())?;
        let (tag, who) = last.waiting.pop_last()?;
        self.waiting -= 1;
        Some((Spot { class, tag }, who))
    }

    /// What was to be served at `spot` for `claim` is not: it counts as nothing of its organisation's share.
    pub(super) fn forgo(&mut self, spot: Spot, claim: &Claim) {
        if let Some(end) = self.classes[spot.class].ends.get_mut(&claim.tenant) {
            *end = end.saturating_sub(claim.length());
        }
    }

    /// Who is next; it is out of the line then.
    pub(super) fn next(&mut self) -> Option<(Spot, T)> {
        let class = self.turn()?;
        for (index, other) in self.classes.iter_mut().enumerate() {
            let waits = index != class && !other.waiting.is_empty();
            other.passed_over = if waits { other.passed_over + 1 } else { 0 };
        }
        let chosen = &mut self.classes[class];
        let (tag, who) = chosen.waiting.pop_first()?;
        chosen.now = chosen.now.max(tag.0);
        if chosen.waiting.is_empty() {
            // Nobody owes anybody anything.
            chosen.now = chosen.furthest;
            chosen.ends.clear();
        }
        self.waiting -= 1;
        Some((Spot { class, tag }, who))
    }

    /// How many are before this place.
    pub(super) fn before(&self, spot: Spot) -> usize {
        let higher: usize = self.classes[..spot.class].iter().map(|class| class.waiting.len()).sum();
        let waiting = &self.classes[spot.class].waiting;
        // From both sides: whoever has just come stands at the end mostly, or near the beginning.
        let (mut before, mut behind) = (waiting.range(..spot.tag), waiting.range(spot.tag..).rev());
        let mut seen = 0;
        higher
            + loop {
                if before.next().is_none() {
                    break seen;
                }
                if behind.next().is_none() {
                    break waiting.len() - seen;
                }
                seen += 1;
            }
    }

    /// Whose turn it is: the first class in which somebody waits, unless another was passed over for long.
    fn turn(&self) -> Option<usize> {
        let waits = |class: &Class<T>| !class.waiting.is_empty();
        let starved = self.classes.iter().position(|class| waits(class) && class.passed_over >= PATIENCE);
        starved.or_else(|| self.classes.iter().position(waits))
    }
}

impl<T> Class<T> {
    /// Organisations whose requests are served owe nothing: they need not be remembered.
    fn forget(&mut self) {
        if self.ends.len() >= self.look_at {
            let behind = self.now.saturating_sub(self.usual * CREDIT);
            self.ends.retain(|_, end| *end > behind);
            // So many that the virtual time stands still: what one request owes is forgiven.
            if self.ends.len() > MANY {
                let (now, usual) = (self.now, self.usual);
                self.ends.retain(|_, end| *end > now + 2 * usual);
            }
            self.look_at = (2 * self.ends.len()).max(FEW);
        }
    }
}

#[cfg(test)]
mod tests;
