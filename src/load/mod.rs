//! `stentor load`: virtual clients that speak the real protocol to a server, packets that leave on
//! schedule whether or not it keeps up, and an account of what came of them. `scenario` says what
//! is played, `result` what was found; reports are made from the latter and from nothing else.

pub mod client;
pub mod clock;
pub mod endpoint;
pub mod gateway;
pub mod grants;
pub mod histogram;
pub mod http;
pub mod media;
pub mod payload;
pub mod ports;
pub mod result;
pub mod scenario;
pub mod schedule;
pub mod server_cost;
pub mod tally;
pub mod verdict;
pub mod wire;

pub use result::RunResult;
pub use scenario::Scenario;
