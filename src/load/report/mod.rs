//! Reports of runs: one HTML file each, complete in itself, with pictures in SVG and their numbers
//! in tables beside them. No script and no request; light or dark as the reader's system is; fit
//! for paper. Made from [`RunResult`] and nothing else. `stentor plan` draws with the same parts.

pub mod axis;
mod clients;
mod comparison;
mod cost;
pub mod figure;
mod latency;
mod limit;
pub mod markup;
pub mod picture;
mod run;
pub mod unit;

use std::{fs, io, path::Path};

use super::RunResult;

/// Name of a run's report in its directory.
pub const REPORT_FILE: &str = "report.html";

/// Writes the report of one run into `dir`, which must exist.
///
/// # Errors
/// The file cannot be written.
pub fn write(result: &RunResult, dir: &Path) -> io::Result<()> {
    fs::write(dir.join(REPORT_FILE), run::page(result))
}

/// Writes a page that sets several runs side by side.
///
/// # Errors
/// The file cannot be written.
pub fn write_comparison(results: &[RunResult], page: &Path) -> io::Result<()> {
    fs::write(page, comparison::page(results))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
