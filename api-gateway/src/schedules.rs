//! Schedules over REST: made, changed, shown, paused, triggered.
//!
//! The gateway only writes records. The broker's timers follow them: that is the dispatcher's part, so that a crash between the two repairs
//! itself.
//!
//! | to find | look in |
//! |---|---|
//! | endpoints and their handlers | [`handlers`] |
//! | what a caller wrote, checked | [`put`] |
//! | what is shown | [`view`] |

mod handlers;
mod put;
mod view;

pub(crate) use handlers::{endpoints, naming};
