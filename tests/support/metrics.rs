//! The server's Prometheus text, parsed: every sample by its name and labels.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Parses the text exposition; panics on a line that is none.
    pub fn parse(text: &str) -> Self {
        let samples =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
                    (name.to_owned(), value.parse().expect("a sample's value is a number"))
                })
                .collect(),
        )
    }

    /// Sum over all samples whose text of name and labels contains every part.
    pub fn sum(&self, parts: &[&str]) -> f64 {
        let matching =
            self.0.iter().filter(|(name, _)| parts.iter().all(|part| name.contains(part)));
        matching.map(|(_, value)| value).sum()
    }

    /// Drops counted for this reason, over all shards.
    pub fn drops(&self, reason: &str) -> f64 {
        self.sum(&[&format!("reason=\"{reason}\"")])
    }
}
