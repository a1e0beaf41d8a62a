//! Where a command's time went (`--timing`): steps, each with the moment at
//! which it ended.
//!
//! Steps are always noted, which takes less than a microsecond each, and
//! printed for who asks. Those of the child are on the page that it shares with
//! its parent (`child::progress`), which reads them when the child has no more to
//! say. Both clocks are `CLOCK_MONOTONIC`.

use std::sync::Mutex;

use crate::sys::process::monotonic;

/// Who took a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Actor {
    /// This process.
    Rrun,
    /// The process that became the container's.
    Child,
}

/// A step that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    actor: Actor,
    name: &'static str,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    ended: u64,
    /// How long it took, in nanoseconds.
    took: u64,
}

/// The steps so far.
static TAKEN: Mutex<Vec<Taken>> = Mutex::new(Vec::new());

/// The step `name`, of this process, has ended. The first one is no step but the
/// moment from which time is counted.
pub fn mark(name: &'static str) {
    let Ok(mut taken) = TAKEN.lock() else {
        return;
    };
    let ended = monotonic();
    let mut own = taken.iter().rev().filter(|step| step.actor == Actor::Rrun);
    let took = own
        .next()
        .map_or(0, |last| ended.saturating_sub(last.ended));
    taken.push(Taken {
        actor: Actor::Rrun,
        name,
        ended,
        took,
    });
}

/// The child's steps: names and the moments at which they began, in
/// nanoseconds. The last one ends now.
pub fn child(steps: &[(&'static str, u64)]) {
    let Ok(mut taken) = TAKEN.lock() else {
        return;
    };
    let ends = steps.iter().skip(1).map(|(_, began)| *began);
    for ((name, began), ended) in steps.iter().zip(ends.chain([monotonic()])) {
        taken.push(Taken {
            actor: Actor::Child,
            name,
            ended,
            took: ended.saturating_sub(*began),
        });
    }
}

/// The table, in order of time.
#[must_use]
pub fn report() -> String {
    match TAKEN.lock() {
        Ok(taken) => table(&taken),
        Err(_) => String::new(),
    }
}

fn table(taken: &[Taken]) -> String {
    let begin = taken.first().map_or(0, |first| first.ended);
    let mut steps: Vec<&Taken> = taken.iter().skip(1).collect();
    steps.sort_by_key(|step| (step.ended, step.actor));
    let mut text = String::from("   at ms    took ms  by         step\n");
    for step in steps {
        let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        text.push_str(&format!(
            "{:8.3} {:10.3}  {:<9}  {}\n",
            milliseconds(step.ended.saturating_sub(begin)),
            milliseconds(step.took),
            match step.actor {
                Actor::Rrun => "rrun",
                Actor::Child => "  child",
            },
            step.name,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_of_time() {
        let step = |actor, name, ended, took| Taken {
            actor,
            name,
            ended,
            took,
        };
        let taken = [
            step(Actor::Rrun, "begin", 1_000_000, 0),
            step(Actor::Rrun, "plan", 1_250_000, 250_000),
            step(Actor::Rrun, "wait", 13_000_000, 11_750_000),
            step(Actor::Child, "mounts", 2_000_000, 700_000),
        ];
        assert_eq!(
            table(&taken),
            "   at ms    took ms  by         step\n   \
                0.250      0.250  rrun       plan\n   \
                1.000      0.700    child    mounts\n  \
               12.000     11.750  rrun       wait\n"
        );
    }
}
