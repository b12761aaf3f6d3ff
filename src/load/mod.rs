//! `stentor load`: virtual clients that speak the real protocol to a server, packets that leave on
//! schedule whether or not it keeps up, and an account of what came of them. `scenario` says what
//! is played, `result` what was found; reports are made from the latter and from nothing else.

pub mod payload;
pub mod report;
pub mod result;
#[cfg(test)]
pub mod sample;
pub mod scenario;
pub mod schedule;
pub mod tally;
pub mod verdict;

pub use result::RunResult;
pub use scenario::Scenario;
