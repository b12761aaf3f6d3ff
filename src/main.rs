//! Command line of stentor: flags become one command, its outcome an exit code (0 done, 1 failed,
//! 2 not understood). What the commands do is in the library.

use std::{error::Error, process::ExitCode};

use clap::Parser;
use stentor::{
    config::{Config, ControlAccess, Flags},
    grant::{self, GrantRequest},
    load::{self, LoadArgs, compare::CompareArgs},
    plan::{self, PlanArgs},
};

/// Puts blocks of one size side by side, the keys that the crypto library allocates included. A
/// shard that has slept finds its hearers' keys cold, and those that lie together come faster
/// (docs/decisions.md, "Which allocator?").
#[cfg(target_arch = "x86_64")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
enum Command {
    /// Run the server; without settings it is a development server on loopback
    Serve {
        #[command(flatten)]
        flags: Flags,
        /// Tell whether the settings are fine, and do not start.
        #[arg(long)]
        check_config: bool,
    },
    /// Ask a running server to let users into a channel; prints their tickets as JSON
    Grant {
        #[command(flatten)]
        request: GrantRequest,
        /// Print links instead, one a line, that open the page to talk on in a browser. Whoever has
        /// a link is let in as its user
        #[arg(long)]
        link: bool,
        #[command(flatten)]
        flags: Flags,
    },
    /// Play a scenario with virtual clients against a server, and measure loss, latency and cost
    #[command(mut_arg("scenario", |arg| arg.required_unless_present_any(["compare", "page"])))]
    Load {
        #[command(flatten)]
        args: Box<LoadArgs>,
        #[command(flatten)]
        compare: CompareArgs,
    },
    /// Tell how much of this host a guild takes, by what things were measured to cost on it
    Plan(Box<PlanArgs>),
    /// Tell whether this machine is fit to run a server, and what to change
    Doctor {
        /// Print findings as JSON.
        #[arg(long)]
        json: bool,
        /// Tell too whether this server could work for the Spacebar with this database; without a
        /// URL, for the one in the settings.
        #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
        spacebar: Option<String>,
        #[command(flatten)]
        flags: Flags,
    },
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("stentor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve { flags, check_config: true } => {
            stentor::serve::check(&Config::inspect(&flags)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve { flags, check_config: false } => serve(&flags),
        Command::Grant { request, link, flags } => {
            let tickets = grant::issue(&ControlAccess::load(&flags)?, &request)?;
            if link {
                for ticket in &tickets {
                    println!("{}", ticket.link());
                }
            } else {
                println!("{}", serde_json::to_string(&tickets)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Load { args, compare } => match (&compare.compare, &compare.page) {
            (Some(files), _) => Ok(load::compare::run(files, compare.tolerance())),
            (None, Some(files)) => {
                load::compare::draw(files)?;
                Ok(ExitCode::SUCCESS)
            }
            (None, None) => Ok(load::load(&args)?),
        },
        Command::Plan(args) => Ok(plan::plan(&args)?),
        Command::Doctor { json, spacebar: None, .. } => Ok(stentor::doctor::run(json, None)),
        Command::Doctor { json, spacebar: Some(url), flags } => {
            // The command line shows to everybody on the machine; the settings need not.
            let flags = if url.is_empty() { flags } else { flags.with("spacebar.database", &url) };
            Ok(stentor::doctor::run(json, Some(&Config::inspect(&flags)?)))
        }
    }
}

fn serve(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    let config = Config::load(flags)?;
    config.log.install();
    for notice in &config.notices {
        tracing::info!("{notice}");
    }
    stentor::serve::serve(config)?;
    Ok(ExitCode::SUCCESS)
}
