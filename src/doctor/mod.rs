//! `stentor doctor`: is this machine fit to run the server? Reads what the kernel says about itself
//! (`observations`), judges it (`judge`, pure) and prints the findings (`report`); on request also
//! whether a Spacebar can be worked for (`spacebar`, from what `control::spacebar::checkup` saw).
//! Changes nothing anywhere. Called by `main`.

mod judge;
mod media;
mod observations;
mod report;
mod spacebar;

pub use judge::{Finding, Status, judge};
pub use media::{MediaSupport, media_support};
pub use observations::{
    Clock, Cores, Interface, Limit, Observations, Quota, observe, observe_under,
};
pub use report::{as_json, as_text, run};
pub use spacebar::judge_spacebar;
