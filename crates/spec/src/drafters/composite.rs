//! Several drafters at once: their trees are laid over each other, and each node is scored by what
//! those that propose it think of it.
//!
//! How much agreement is worth, and what another guess for the same place takes away, is learned
//! from what comes true. A drafter that takes time is asked only where those that take none leave
//! enough to be gained.

mod part;
mod union;

use leveret_model::Tap;

use part::{Part, PartLessons};
use union::{Union, Views};

use crate::draft::Draft;
use crate::drafter::{Context, Drafter, Lessons, Probe, Round};

/// Several drafters behind one. The origin of a node is the index of the part that was surest of it.
pub struct Composite {
    parts: Vec<Part>,
    taps: Vec<Tap>,
    union: Union,
    /// Tokens of the text when the parts were asked.
    asked_at: usize,
    /// What the parts that take no time propose together.
    guessed: Draft,
}

/// What all parts have learned, and what their agreement is worth.
struct Learned {
    parts: Vec<PartLessons>,
    views: Views,
}

impl std::fmt::Debug for Composite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.parts.iter().map(|part| part.drafter.name()).collect();
        f.debug_struct("Composite").field("parts", &names).finish_non_exhaustive()
    }
}

impl Composite {
    /// A drafter of all `parts`. Where chances are equal the earlier part counts as the origin.
    pub fn new(parts: Vec<Box<dyn Drafter>>) -> Self {
        let mut taps: Vec<Tap> = Vec::new();
        for tap in parts.iter().flat_map(|part| part.taps()) {
            if !taps.contains(tap) {
                taps.push(*tap);
            }
        }
        Self {
            parts: parts.into_iter().map(Part::new).collect(),
            taps,
            union: Union::new(),
            asked_at: 0,
            guessed: Draft::new(),
        }
    }

    /// Lays the parts' proposals over each other: the `rows` likeliest nodes to `draft`.
    fn join(&mut self, rows: usize, draft: &mut Draft) {
        self.union.lay(self.parts.iter().map(|part| &part.draft), rows);
        self.union.write(rows, draft);
    }

    /// Learns from the tokens that have come since the parts were asked.
    fn learn(&mut self, tokens: &[u32]) {
        let Some(new) = tokens.get(self.asked_at..).filter(|new| !new.is_empty()) else { return };
        self.union.learn(new);
        let mut others = 0;
        for takes_time in [false, true] {
            for part in self.parts.iter_mut().filter(|part| part.takes_time() == takes_time) {
                others = others.max(part.learn(new, others));
            }
        }
    }
}

impl Drafter for Composite {
    fn name(&self) -> &str {
        match &self.parts[..] {
            [part] => part.drafter.name(),
            _ => "composite",
        }
    }

    fn origin(&self, index: u8) -> &str {
        self.parts.get(usize::from(index)).map_or("", |part| part.drafter.name())
    }

    fn taps(&self) -> &[Tap] {
        &self.taps
    }

    fn propose(&mut self, context: &Context<'_>, rows: usize, draft: &mut Draft) {
        self.asked_at = context.tokens.len();
        for part in &mut self.parts {
            part.draft.clear();
            if !part.takes_time() {
                part.ask(context, rows);
            }
        }
        self.join(rows, draft);
        if self.parts.iter().any(Part::takes_time) {
            self.guessed.clone_from(draft);
            let guessed = Some(&self.guessed);
            for part in self.parts.iter_mut().filter(|part| part.takes_time()) {
                part.ask_if_it_pays(&Context { guessed, ..*context }, rows);
            }
            if self.parts.iter().any(|part| part.takes_time() && !part.draft.is_empty()) {
                draft.clear();
                self.join(rows, draft);
            }
        }
        // Tokens that were drawn are verified as they are: nothing may be added or left out by
        // what came of the draw.
        if let Some(origin) = self.parts.iter().position(|part| part.draft.has_draws()) {
            self.union.clear();
            *draft = self.parts[origin].draft.clone();
            draft.set_origin(origin as u8);
        }
    }

    /// Those of the first part that asks for any.
    fn probe(&mut self, context: &Context<'_>, draft: &Draft, rows: usize, probes: &mut Vec<Probe>) {
        for part in &mut self.parts {
            if probes.is_empty() {
                part.drafter.probe(context, draft, rows, probes);
            }
        }
    }

    fn observe(&mut self, round: &Round<'_>) {
        self.learn(round.context.tokens);
        for part in &mut self.parts {
            part.drafter.observe(round);
        }
    }

    fn lessons(&self) -> Option<Lessons> {
        let parts = self.parts.iter().map(Part::lessons).collect();
        Some(Lessons::new(Learned { parts, views: self.union.views().clone() }))
    }

    fn remember(&mut self, lessons: &Lessons) {
        let Some(learned) = lessons.of::<Learned>().filter(|it| it.parts.len() == self.parts.len()) else {
            return;
        };
        self.union.believe(learned.views.clone());
        self.parts.iter_mut().zip(&learned.parts).for_each(|(part, lessons)| part.remember(lessons));
    }

    /// The first part's that has any.
    fn trouble(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| part.drafter.trouble())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proposes always the same tree: (token, parent, chance).
    struct Fixed(&'static str, Vec<(u32, Option<usize>, f32)>, Option<f64>);

    impl Drafter for Fixed {
        fn name(&self) -> &str {
            self.0
        }

        fn seconds(&self) -> Option<f64> {
            self.2
        }

        fn propose(&mut self, _: &Context<'_>, _: usize, draft: &mut Draft) {
            for &(token, parent, chance) in &self.1 {
                draft.push(token, parent, chance);
            }
        }

        fn observe(&mut self, _: &Round<'_>) {}
    }

    fn composite(parts: Vec<Fixed>) -> Composite {
        Composite::new(parts.into_iter().map(|part| Box::new(part) as Box<dyn Drafter>).collect())
    }

    fn proposed(drafter: &mut Composite, context: &Context<'_>, rows: usize) -> Draft {
        let mut draft = Draft::new();
        drafter.propose(context, rows, &mut draft);
        draft
    }

    #[test]
    fn trees_are_laid_over_each_other() {
        let left = Fixed("left", vec![(1, None, 0.6), (2, Some(0), 0.5), (9, None, 0.1)], Some(0.0));
        let right = Fixed("right", vec![(1, None, 0.5), (3, Some(0), 0.2), (9, None, 0.3)], Some(0.0));
        let mut both = composite(vec![left, right]);
        let draft = proposed(&mut both, &Context::new(&[5], 1), 16);
        let one = draft.child(None, 1).unwrap();
        let nine = draft.child(None, 9).unwrap();
        assert_eq!(draft.len(), 4);
        assert!(draft.child(Some(one), 2).is_some() && draft.child(Some(one), 3).is_some());
        let name = |node: usize| both.origin(draft.nodes()[node].origin);
        assert_eq!((name(one), name(nine)), ("left", "right"));
        assert!(draft.nodes()[one].chance > 0.5);
        // The fewer rows, the likelier what is kept.
        let draft = proposed(&mut both, &Context::new(&[5], 1), 2);
        assert_eq!(draft.nodes().iter().map(|n| n.token).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn learns_what_a_part_that_lies_is_worth() {
        let liar = Fixed("liar", vec![(1, None, 1.0)], Some(0.0));
        let mut alone = composite(vec![liar]);
        let mut tokens = vec![0];
        let mut chance = 1.0;
        for _ in 0..200 {
            let draft = proposed(&mut alone, &Context::new(&tokens, 1), 4);
            chance = draft.nodes()[0].chance;
            tokens.push(2);
            alone.learn(&tokens);
        }
        assert!(chance < 0.1, "{chance}");
    }

    /// What others would have guessed too is no gain, but neither does it speak against a part where they are at a loss.
    #[test]
    fn what_a_part_adds_is_counted_by_the_room_there_was() {
        let worth = crate::Worth { lambda: 0.0, pass_seconds: 1.0, ..crate::Worth::default() };
        // Right half the time, as it says; the other is right then too, and whenever it fails.
        let free = Fixed("free", vec![(1, None, 0.5)], Some(0.0));
        let slow = Fixed("slow", vec![(1, None, 0.5), (2, None, 0.5)], Some(0.1));
        let mut both = composite(vec![free, slow]);
        let mut tokens = vec![0];
        for i in 0..200 {
            proposed(&mut both, &Context { worth, ..Context::new(&tokens, 1) }, 8);
            tokens.push(1 + i % 2);
            both.learn(&tokens);
        }
        let slow = &both.parts[1];
        assert!((slow.gain(1.0) - 0.5).abs() < 0.1, "{}", slow.gain(1.0));
        assert!((slow.gain(0.5) - 0.25).abs() < 0.05);
    }

    #[test]
    fn what_takes_time_is_asked_where_there_is_much_to_gain() {
        let worth = crate::Worth { lambda: 1.5, row: 0.1, pass_seconds: 1.0, ..crate::Worth::default() };
        let context = Context { worth, ..Context::new(&[5], 1) };
        let asked = |expected: usize, seconds: Option<f64>, drafts: usize, right: u32| {
            let chain = (0..expected).map(|i| (1, i.checked_sub(1), 1.0)).collect();
            let slow = Fixed("slow", vec![(2, None, 0.5), (2, Some(0), 0.5), (2, Some(1), 0.5)], seconds);
            let mut both = composite(vec![slow, Fixed("free", chain, Some(0.0))]);
            for _ in 0..drafts {
                proposed(&mut both, &context, 40);
                both.learn(&[&[5][..], &vec![2; right as usize]].concat());
            }
            proposed(&mut both, &context, 40).len() == expected + 3
        };
        assert!(asked(0, None, 0, 0) && asked(4, None, 0, 0) && !asked(30, None, 0, 0));
        assert!(asked(0, Some(1.2), 20, 3) && !asked(0, Some(3.2), 20, 3));
        assert!(asked(0, Some(0.3), 20, 1) && !asked(0, Some(1.2), 20, 1));
        assert!(asked(0, Some(1.2), 1, 0), "one failure says little");
    }
}
