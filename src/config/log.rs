//! Starts log lines as the operator wants them. Called once by `main`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::{Log, LogFormat};

impl Log {
    /// Writes log lines to standard error from now on; standard output is for results. Does
    /// nothing if the process has a subscriber already.
    pub fn install(&self) {
        let filter = EnvFilter::try_new(&self.level).unwrap_or_default();
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(self.format == LogFormat::Text && std::io::stderr().is_terminal());
        let installed = match self.format {
            LogFormat::Text => lines.try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        };
        drop(installed);
    }
}
