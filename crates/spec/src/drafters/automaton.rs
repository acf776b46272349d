//! A suffix automaton over a growing text: after each token, the longest suffix that the text has
//! had before, and what followed it how often.
//!
//! The automaton is that of Blumer et al. (1985): one state for each set of substrings that end at
//! the same places, at most two states and three edges a token, amortised constant time a token.
//! The suffix link of the state of the whole text leads to its longest suffix that occurs
//! elsewhere too, so the answer falls out of the construction.

/// A substring of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    state: u32,
    len: u32,
}

impl Place {
    /// Tokens of the substring; 0 for the empty one.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the substring is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A token that has followed a substring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// The token.
    pub token: u32,
    /// How often it has. Falls short where the text repeats itself in more than 32 ways at once.
    pub count: u32,
    /// Position after the last time.
    pub seen: u32,
}

/// Index of the automaton. Holds no tokens: the text is the caller's.
#[derive(Debug)]
pub struct SuffixAutomaton {
    states: Vec<State>,
    edges: Vec<Edge>,
    /// Open-addressed hash table over `edges`: index of an edge plus 1, or 0. The size is a power
    /// of two, and at most half of it is in use.
    table: Vec<u32>,
    /// State of the whole text.
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// Tokens of the state's longest substring.
    len: u32,
    /// State of the longest suffix that ends at more places; `NONE` for the empty text.
    link: u32,
    /// Position after the last known occurrence.
    seen: u32,
    /// Known occurrences.
    count: u32,
    /// First edge that leaves; `NONE` for none.
    edge: u32,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    from: u32,
    token: u32,
    to: u32,
    /// Next edge that leaves the same state.
    next: u32,
}

const NONE: u32 = u32::MAX;
/// How far up the suffix links occurrences are noted; bounds the time for a token.
const NOTED: usize = 32;

impl Default for SuffixAutomaton {
    fn default() -> Self {
        Self::new()
    }
}

impl SuffixAutomaton {
    /// The automaton of the empty text.
    pub fn new() -> Self {
        let root = State { len: 0, link: NONE, seen: 0, count: 0, edge: NONE };
        Self { states: vec![root], edges: Vec::new(), table: vec![0; 64], last: 0 }
    }

    /// Tokens of the text.
    pub fn len(&self) -> usize {
        self.states[self.last as usize].len as usize
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// The longest suffix of the text that occurred before.
    pub fn repeat(&self) -> Place {
        let state = self.states[self.last as usize].link;
        self.whole(if state == NONE { 0 } else { state })
    }

    /// The longest suffix of `place` that occurred at more places; `None` for the empty one.
    pub fn shorter(&self, place: Place) -> Option<Place> {
        let link = self.states[place.state as usize].link;
        (link != NONE).then(|| self.whole(link))
    }

    /// The longest suffix of `place` and `token` that has occurred.
    pub fn follow(&self, mut place: Place, token: u32) -> Place {
        loop {
            if let Some(edge) = self.edge(place.state, token) {
                return Place { state: self.edges[edge].to, len: place.len + 1 };
            }
            match self.shorter(place) {
                Some(shorter) => place = shorter,
                None => return place,
            }
        }
    }

    /// What has followed `place`, the newest kind of continuation first.
    pub fn followers(&self, place: Place) -> impl Iterator<Item = Follower> {
        let mut edge = self.states[place.state as usize].edge;
        std::iter::from_fn(move || {
            let Edge { token, to, next, .. } = *self.edges.get(edge as usize)?;
            edge = next;
            let State { count, seen, .. } = self.states[to as usize];
            Some(Follower { token, count, seen })
        })
    }

    fn whole(&self, state: u32) -> Place {
        Place { state, len: self.states[state as usize].len }
    }

    /// Appends `token` to the text. A text has room for 2^30 tokens; later ones are ignored.
    pub fn push(&mut self, token: u32) {
        let end = self.len() as u32 + 1;
        if end >= 1 << 30 {
            return;
        }
        let whole = self.add(State { len: end, link: 0, seen: end, count: 1, edge: NONE });
        let mut state = self.last;
        self.last = whole;
        let known = loop {
            if let Some(edge) = self.edge(state, token) {
                break Some(edge);
            }
            self.connect(state, token, whole);
            state = self.states[state as usize].link;
            if state == NONE {
                break None;
            }
        };
        if let Some(edge) = known {
            let to = self.edges[edge].to;
            let len = self.states[state as usize].len + 1;
            let link =
                if self.states[to as usize].len == len { to } else { self.split(state, token, to, len) };
            self.states[whole as usize].link = link;
        }
        self.note(end);
    }

    /// Gives the substrings of `to` with at most `len` tokens a state of their own: they now end at
    /// one more place. `state` is the longest that leads to one of them by `token`.
    fn split(&mut self, mut state: u32, token: u32, to: u32, len: u32) -> u32 {
        let old = self.states[to as usize];
        let part = self.add(State { len, edge: NONE, ..old });
        let mut edge = old.edge;
        while edge != NONE {
            let Edge { token, to, next, .. } = self.edges[edge as usize];
            self.connect(part, token, to);
            edge = next;
        }
        self.states[to as usize].link = part;
        while state != NONE
            && let Some(edge) = self.edge(state, token)
            && self.edges[edge].to == to
        {
            self.edges[edge].to = part;
            state = self.states[state as usize].link;
        }
        part
    }

    /// Notes that all suffixes of the text occur at `end` too.
    fn note(&mut self, end: u32) {
        let mut state = self.states[self.last as usize].link;
        for _ in 0..NOTED {
            if state == 0 {
                break;
            }
            let State { link, seen, count, .. } = &mut self.states[state as usize];
            *seen = end;
            *count += 1;
            state = *link;
        }
    }

    fn add(&mut self, state: State) -> u32 {
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    /// Index of the edge that leaves `from` by `token`.
    fn edge(&self, from: u32, token: u32) -> Option<usize> {
        let mut slot = self.slot(from, token);
        loop {
            let edge = (self.table[slot] as usize).checked_sub(1)?;
            if self.edges[edge].from == from && self.edges[edge].token == token {
                return Some(edge);
            }
            slot = (slot + 1) & (self.table.len() - 1);
        }
    }

    /// Adds an edge that is not there yet.
    fn connect(&mut self, from: u32, token: u32, to: u32) {
        if (self.edges.len() + 1) * 2 > self.table.len() {
            let size = self.table.len() * 2;
            self.table.clear();
            self.table.resize(size, 0);
            for edge in 0..self.edges.len() {
                self.enter(edge);
            }
        }
        let first = &mut self.states[from as usize].edge;
        self.edges.push(Edge { from, token, to, next: *first });
        *first = self.edges.len() as u32 - 1;
        self.enter(self.edges.len() - 1);
    }

    /// Writes edge number `edge` into the table.
    fn enter(&mut self, edge: usize) {
        let mut slot = self.slot(self.edges[edge].from, self.edges[edge].token);
        while self.table[slot] != 0 {
            slot = (slot + 1) & (self.table.len() - 1);
        }
        self.table[slot] = edge as u32 + 1;
    }

    /// Where the search for an edge begins: the upper bits of a multiplicative hash.
    fn slot(&self, from: u32, token: u32) -> usize {
        let key = u64::from(from) << 32 | u64::from(token);
        let hash = (key ^ key >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize & (self.table.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The length of the longest suffix of `text` that occurred before, by trying all.
    fn brute_force(text: &[u32]) -> usize {
        let matched = |end: usize| {
            let pairs = text[..end].iter().rev().zip(text.iter().rev());
            pairs.take_while(|(a, b)| a == b).count()
        };
        (1..text.len()).map(matched).max().unwrap_or(0)
    }

    /// (token, times, position after the last time) of all that followed `part`, by trying all.
    fn followers(text: &[u32], part: &[u32]) -> Vec<(u32, u32, u32)> {
        let mut found: Vec<(u32, u32, u32)> = Vec::new();
        for end in part.len()..text.len() {
            if text[..end].ends_with(part) {
                match found.iter_mut().find(|f| f.0 == text[end]) {
                    Some(f) => (f.1, f.2) = (f.1 + 1, end as u32 + 1),
                    None => found.push((text[end], 1, end as u32 + 1)),
                }
            }
        }
        found.sort_unstable();
        found
    }

    fn check(
        automaton: &SuffixAutomaton,
        text: &[u32],
        place: Place,
        path: &[u32],
    ) -> Result<(), TestCaseError> {
        let part = &path[path.len() - place.len()..];
        let mut found: Vec<_> = automaton.followers(place).map(|f| (f.token, f.count, f.seen)).collect();
        found.sort_unstable();
        prop_assert_eq!(found, followers(text, part), "{:?} in {:?}", part, text);
        Ok(())
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force(
            text in proptest::collection::vec(0u32..3, 0..24),
            next in proptest::collection::vec(0u32..4, 6),
        ) {
            let mut automaton = SuffixAutomaton::new();
            for end in 1..=text.len() {
                automaton.push(text[end - 1]);
                let text = &text[..end];
                let mut place = automaton.repeat();
                prop_assert_eq!(place.len(), brute_force(text));
                check(&automaton, text, place, text)?;
                // On into what may come.
                let mut path = text.to_vec();
                for &token in &next {
                    place = automaton.follow(place, token);
                    path.push(token);
                    check(&automaton, text, place, &path)?;
                }
                while let Some(shorter) = automaton.shorter(place) {
                    prop_assert!(shorter.len() < place.len());
                    place = shorter;
                    if !place.is_empty() {
                        check(&automaton, text, place, &path)?;
                    }
                }
            }
        }

        #[test]
        fn finds_real_repeats_in_long_texts(
            text in proptest::collection::vec(prop_oneof![3 => 0u32..4, 1 => 0u32..200_000], 0..1500),
        ) {
            let mut automaton = SuffixAutomaton::new();
            for end in 1..=text.len() {
                automaton.push(text[end - 1]);
                if end % 50 == 0 {
                    prop_assert_eq!(automaton.repeat().len(), brute_force(&text[..end]));
                }
            }
            prop_assert!(automaton.states.len() <= 2 * text.len() + 1);
            prop_assert!(automaton.edges.len() <= 3 * text.len() + 1);
        }
    }
}
