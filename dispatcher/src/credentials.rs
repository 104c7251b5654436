//! Re-delivery of credentials: an agent that joins, or has another sealing key by now, gets those of its pool's connections from an agent that
//! has them. And what is left in mailboxes of connections and agents that are no more is taken out.
//!
//! Only ciphertext passes here: the one agent seals to the other, and the active dispatcher carries it from the one to the other's mailbox. Who
//! delivers for the first time is the gateway; what it and a dispatcher could do with it all is in the decisions.
//!
//! | to find | look in |
//! |---|---|
//! | who needs what, and from whom | [`plan`] |
//! | what it is decided from | `known`, filled by `follow` |
//! | doing it: asking the holder, writing mailboxes | `desk` |
//! | when | `driver` |

mod desk;
mod driver;
mod follow;
mod known;
mod plan;

use muster_runtime::tasks::Tasks;

use crate::{intake::follow::Source, lease::keeper::Leadership};
use desk::Desk;
use driver::Driver;

/// Starts what follows the four sources, and the task that delivers.
pub(crate) fn start(tasks: &Tasks, source: &Source, leadership: &Leadership) {
    let heard = follow::start(tasks, source);
    let desk = Desk { broker: source.broker.clone(), leadership: leadership.clone() };
    let driver = Driver::new(desk, heard);
    tasks.essential("credentials", driver.run(tasks.shutdown().clone()));
}
