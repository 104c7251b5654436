//! Schedules: the broker keeps the time, and firings become jobs.
//!
//! Three parts, each repairing what the one before may have left undone:
//! 1. **Timers.** The active dispatcher brings the broker's timers, one message on `schedules.<name>` each, to what the records say. A
//!    record without its timer, or a timer without its record, lasts until the next look.
//! 2. **Firings.** The broker puts each firing on `due.<name>`. All dispatchers share one consumer, which gives out one firing at a time.
//!    What becomes of it is written down first, then done, then acked: whoever is given it again finds what was decided, and a job has the
//!    id `<name>-<time of the firing>`, so that doing it again makes no second one.
//! 3. **Missed firings.** A broker that was killed forgets the firings it missed. The active dispatcher finds them by the calendar, and
//!    makes up one for all of them, where the schedule wants that.
//!
//! | to find | look in |
//! |---|---|
//! | which timers the broker should have | [`plan`] |
//! | what becomes of a firing, and which was missed | [`decide`] |
//! | carrying both out | `timers`, `firings`, `desk` |
//! | what is read of the broker | `store` |

pub mod decide;
mod desk;
mod firings;
pub mod plan;
mod store;
mod timers;

use muster_runtime::tasks::Tasks;

use crate::{intake::follow::Source, lease::keeper::Leadership, signing::Signing};
use desk::Desk;

/// Starts both loops.
pub(crate) fn start(tasks: &Tasks, source: &Source, leadership: &Leadership, signing: &Signing) {
    let Source { broker, figures, fixed, .. } = source.clone();
    let desk = Desk { broker, figures, signing: signing.clone() };
    let timers = timers::Timers::new(desk.clone(), leadership.clone());
    tasks.essential("schedules", timers.run(tasks.shutdown().clone()));
    tasks.essential("firings", firings::run(desk, fixed, tasks.shutdown().clone()));
}
