//! The backend that is an unmodified Spacebar (protocol.md §6.5): its tables say who may join, its
//! event bus what changed, and both are told who has left. `adapter` is what `authority` asks, sans
//! I/O; `errands` carries out what it orders; `vigil` watches, by one of four ways: the bus over
//! unix sockets (`unix_bus`) or RabbitMQ (`rabbitmq`), the database's own notifications (`notify`),
//! or asking again and again. `database` has the SQL, `event` the bus's words. Runs on the control
//! thread and waits there for nobody: every question has a deadline, and there are never too many.

mod adapter;
mod bus;
pub mod checkup;
mod database;
mod errands;
pub mod event;
pub mod frame;
mod notify;
mod presence;
mod rabbitmq;
mod region;
mod row;
mod settling;
mod tally;
mod unix_bus;
mod vigil;

pub use adapter::Order;
pub(super) use adapter::{ORDERS_MAX, Spacebar};
pub(super) use errands::{check, run};
pub(super) use tally::Tally;
