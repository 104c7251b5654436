//! Groups: one job for each of many agents, sent in waves.
//!
//! A gateway writes down what is to be done; the active dispatcher does it. What it does next follows from the record, from how far the
//! group is, and from the history of its jobs, so whoever becomes active goes on where another one died. A job has the id that follows
//! from its group and its member's place, so that sending it again makes no second one.
//!
//! | to find | look in |
//! |---|---|
//! | what is to be done next | [`decide`] |
//! | doing it: sending, cancelling, looking for jobs | `desk` |
//! | one group: what is known of it, and its next step | `open` |
//! | when, and for which groups | `driver` |

mod decide;
mod desk;
mod driver;
mod open;

use std::time::Duration;

use muster_runtime::tasks::Tasks;

use crate::{history::Past, intake::follow::Source, lease::keeper::Leadership, queues::Hint, signing::Signing};
use desk::Desk;
use driver::Driver;

/// Starts the task that drives groups. `expire_after` is how long after its expiry a job is ended that no agent began; `hint` goes to whoever sees to
/// it that members get what was sent.
pub(crate) fn start(
    tasks: &Tasks,
    source: &Source,
    leadership: &Leadership,
    past: Past,
    signing: &Signing,
    (expire_after, hint): (Duration, Hint),
) {
    let Source { broker, figures, fixed, .. } = source.clone();
    let desk = Desk { broker, leadership: leadership.clone(), figures, signing: signing.clone(), expire_after, hint };
    let driver = Driver::new(desk, fixed, past);
    tasks.essential("groups", driver.run(tasks.shutdown().clone()));
}
