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

use std::{sync::Arc, time::Duration};

use muster_runtime::{nats::Broker, tasks::Tasks};

use crate::{figures::Figures, fixed::Fixed, history::Past, lease::keeper::Leadership};
use desk::Desk;
use driver::Driver;

/// Starts the task that drives groups. `expire_after` is how long after its expiry a job is ended that no agent began.
pub(crate) fn start(
    tasks: &Tasks,
    broker: &Broker,
    fixed: &Arc<Fixed>,
    leadership: &Leadership,
    past: Past,
    figures: Figures,
    expire_after: Duration,
) {
    let desk = Desk { broker: broker.clone(), leadership: leadership.clone(), figures, expire_after };
    let driver = Driver::new(desk, Arc::clone(fixed), past);
    tasks.essential("groups", driver.run(tasks.shutdown().clone()));
}
