//! The dispatcher on a real broker: each test has a broker of its own, with accounts and permissions as `muster init` makes them.

mod audit;
mod calendar;
mod credentials;
mod expiry;
mod faults;
mod groups;
mod history;
mod leadership;
mod ledger;
mod outages;
mod queues;
mod removal;
mod schedules;
mod shares;
mod signatures;
mod standby;
mod standings;
mod support;
mod sweeper;
mod trust;
mod unfinished;
