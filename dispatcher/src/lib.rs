//! The dispatcher: scores agents and tells each how soon it may pull. Control plane only: it never stands on a job's path, and nothing
//! waits for it.
//!
//! | to find | look in |
//! |---|---|
//! | the formulas of score and status | [`score`], over the sliding hour of [`window`] |
//! | who is served first | [`ranking`] |
//! | what is known and what follows from it | [`state`] |

pub mod clock;
pub mod instances;
pub mod lease;
pub mod ranking;
pub mod score;
pub mod state;
pub mod window;
